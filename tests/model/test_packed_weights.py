"""Fused blocks follow every change of the model's weights, and torch's layers run where the ops cannot."""

import copy
import dataclasses
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.kernels.machine import native_problem
from reg4rec.model import (
    HistoryLayout,
    Linear,
    Memory,
    ModelConfig,
    PathCache,
    Reg4RecModel,
    decode_step,
    last_states,
    remember,
    search_step,
)
from reg4rec.model.layers import DecoderBlock
from reg4rec.model.packed import Packed, PackedWeights, packed_encoder
from tests.isa import BF16_ISAS, selected_bf16, selected_isa

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
CONFIG = ModelConfig(num_codebooks=3, codebook_size=7, num_categories=4, dim=16, num_heads=2, ffn_dim=24, num_items=30)


@pytest.fixture
def model() -> Reg4RecModel:
    torch.manual_seed(0)
    made = Reg4RecModel(CONFIG).eval()
    nn.init.normal_(made.refine.weight)  # a new one is 0 and would hide the decoder
    return made


@torch.inference_mode()
def logits(model: Reg4RecModel) -> tuple[Memory, Tensor]:
    """Histories of 5 and 2 items, and the logits of tokens and categories of three paths after a token."""
    g = torch.Generator().manual_seed(1)
    memory = remember(
        model, torch.randint(7, (2, 5, 3), generator=g), torch.tensor([5, 2]), torch.arange(10).view(2, 5)
    )
    *_, cache = search_step(model, memory, None, 0, PathCache.empty(memory, 1))
    cache = cache.of_paths(torch.zeros(2, 3, dtype=torch.int64))
    found, of_categories, _ = search_step(model, memory, torch.tensor([[0, 9, 20]]).expand(2, 3), 1, cache)
    assert found is not None
    assert of_categories is not None
    return memory, torch.cat([found.flatten(2), of_categories], dim=2)


@torch.no_grad()
def test_fused_blocks_give_the_results_of_the_layers(model: Reg4RecModel) -> None:
    memory, logits_BPX = logits(model)
    with ops.use_backend("eager"):
        plain, expected_BPX = logits(model)
    assert memory.packed_decoder is not None
    assert plain.packed_decoder is None
    torch.testing.assert_close(logits_BPX, expected_BPX)
    torch.testing.assert_close(memory.state_BD, plain.state_BD)


@torch.no_grad()
@pytest.mark.parametrize("layout", get_args(HistoryLayout))
def test_states_alone_are_those_of_the_memory(layout: HistoryLayout) -> None:
    model = Reg4RecModel(dataclasses.replace(CONFIG, history_layout=layout)).eval()
    nn.init.normal_(model.residual_ID)
    g = torch.Generator().manual_seed(1)
    codes_IM, item_BL = torch.randint(7, (30, 3), generator=g), torch.randint(30, (4, 6), generator=g)
    check_states(model, codes_IM, item_BL, torch.tensor([4, 0, 6, 1]))


@torch.inference_mode()
def check_states(model: Reg4RecModel, codes_IM: Tensor, item_BL: Tensor, length_B: Tensor) -> None:
    memory = remember(model, codes_IM[item_BL], length_B, item_BL)
    packed, item_T = model.encoder_weights._cached, item_BL[torch.arange(6) < length_B[:, None]]
    state_BD = last_states(model, item_T, length_B, codes_IM)
    assert model.encoder_weights._cached is packed is not None
    assert torch.equal(state_BD, memory.state_BD)
    vectors_ID = model.embed_items(codes_IM, torch.arange(30))
    torch.testing.assert_close(last_states(model, item_T, length_B, codes_IM, vectors_ID), state_BD)
    with ops.use_backend("eager"):
        torch.testing.assert_close(last_states(model, item_T, length_B, codes_IM), state_BD)
    for backend in ("cpp", "eager"):
        with ops.use_backend(backend):
            assert last_states(model, item_T[:0], length_B[:0], codes_IM).shape == (0, 16)
            assert remember(model, codes_IM[item_BL[:0]], length_B[:0], item_BL[:0]).state_BD.shape == (0, 16)


@torch.inference_mode()
def test_changes_of_the_decoder_do_not_change_states(model: Reg4RecModel) -> None:
    args = torch.arange(7), torch.tensor([5, 2]), torch.zeros(30, 3, dtype=torch.int64)
    before_BD = last_states(model, *args)
    hook(model)
    assert torch.equal(last_states(model, *args), before_BD)
    assert remember(model, args[2][None, :5], torch.tensor([5]), torch.arange(5)[None]).packed_decoder is None
    write(model.get_submodule("encoder.0.out"))  # type: ignore[arg-type]
    changed_BD = last_states(model, *args)
    assert not torch.allclose(changed_BD, before_BD)
    with ops.use_backend("eager"):
        torch.testing.assert_close(last_states(model, *args), changed_BD)


def check_change_shows(model: Reg4RecModel, before_BPX: Tensor) -> None:
    """Check that a change of the model shows in the fused blocks as in torch's layers."""
    _, logits_BPX = logits(model)
    with ops.use_backend("eager"):
        _, expected_BPX = logits(model)
    assert not torch.allclose(logits_BPX, before_BPX)
    torch.testing.assert_close(logits_BPX, expected_BPX)


def write(part: nn.Linear) -> None:
    part.weight.mul_(-3)


def replace(part: nn.Linear) -> None:
    part.weight = nn.Parameter(-3 * part.weight)


def load(part: nn.Linear) -> None:
    part.load_state_dict({"weight": -3 * part.weight, "bias": part.bias}, assign=True)


def optimize(part: nn.Linear) -> None:
    part.weight.grad = torch.ones_like(part.weight)
    torch.optim.AdamW([part.weight], lr=1.0, fused=True).step()
    part.weight.grad = None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        *((change, "decoder.1.ffn.up") for change in (write, replace, load, optimize)),
        *((write, name) for name in ("encoder.0.out", "decoder.0.cross_kv", "refine", "category_head")),
    ],
)
@torch.no_grad()
def test_changed_weights_are_packed_again(model: Reg4RecModel, change: Callable[[nn.Linear], None], name: str) -> None:
    first, before_BPX = logits(model)
    again, _ = logits(model)
    assert again.packed_decoder is first.packed_decoder
    part = model.get_submodule(name)
    assert isinstance(part, nn.Linear)
    change(part)
    check_change_shows(model, before_BPX)


@pytest.mark.parametrize("name", ["tokens_MKD", "norm_path.bias", "steps"])
@torch.no_grad()
def test_changed_parameters_are_noticed(model: Reg4RecModel, name: str) -> None:
    _, before_BPX = logits(model)
    model.get_parameter(name).mul_(-3).add_(0.1)
    check_change_shows(model, before_BPX)


@torch.no_grad()
def test_a_copy_has_its_own(model: Reg4RecModel) -> None:
    _, before_BPX = logits(model)
    other = copy.deepcopy(model)
    other.get_parameter("encoder.0.qkv.weight").mul_(2)
    _, changed_BPX = logits(other)
    with ops.use_backend("eager"):
        _, expected_BPX = logits(other)
    torch.testing.assert_close(changed_BPX, expected_BPX)
    assert torch.equal(logits(model)[1], before_BPX)


def change_layer(model: Reg4RecModel) -> None:
    model.get_submodule("decoder.1.ffn").up = Linear(16, 24)


def change_block(model: Reg4RecModel) -> None:
    model.decoder[1] = DecoderBlock(16, 2, 24, 0.1).eval()


def parametrize(model: Reg4RecModel) -> None:
    nn.utils.parametrizations.weight_norm(model.get_submodule("decoder.1.cross_q"))
    model.get_parameter("decoder.1.cross_q.parametrizations.weight.original0").mul_(2)


def hook(model: Reg4RecModel) -> None:
    model.get_submodule("decoder.1.ffn.down").register_forward_hook(lambda _, __, y: 2 * y)


def hook_a_head(model: Reg4RecModel) -> None:
    model.get_submodule("category_head").register_forward_pre_hook(lambda _, x: (2 * x[0],))


def hook_a_group(model: Reg4RecModel) -> None:
    model.get_submodule("decoder.1.ffn").register_forward_hook(lambda _, __, y: 2 * y)


def change_epsilon(model: Reg4RecModel) -> None:
    norm = model.get_submodule("decoder.0.norm_self")
    assert isinstance(norm, nn.LayerNorm)
    norm.eps = 0.5


def change_ffn(model: Reg4RecModel) -> None:
    model.decoder[0] = DecoderBlock(16, 2, 25, 0.1).eval()


def drop_blocks(model: Reg4RecModel) -> None:
    model.encoder, model.decoder = model.encoder[:1], model.decoder[:1]


CHANGES = (change_layer, change_block, parametrize, hook, hook_a_head, hook_a_group, change_epsilon)


@pytest.mark.parametrize("change", [*CHANGES, change_ffn, drop_blocks])
@torch.no_grad()
def test_every_change_of_a_layer_is_noticed(model: Reg4RecModel, change: Callable[[Reg4RecModel], None]) -> None:
    _, before_BPX = logits(model)
    change(model)
    check_change_shows(model, before_BPX)


@torch.no_grad()
def test_another_category_head_is_noticed(model: Reg4RecModel) -> None:
    model.category_head = nn.Linear(16, 9)
    _, logits_BPX = logits(model)
    assert logits_BPX.shape[2] == 3 * 7 + 9
    with ops.use_backend("eager"):
        torch.testing.assert_close(logits_BPX, logits(model)[1])
    model.category_head = None
    with torch.inference_mode():
        memory = remember(model, torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([2]), torch.zeros(1, 2).long())
        assert search_step(model, memory, None, 0, PathCache.empty(memory, 1))[1] is None


@torch.no_grad()
def test_a_subclass_runs_its_own_methods() -> None:
    class Doubled(Reg4RecModel):
        def token_logits(self, state: Tensor) -> Tensor:
            return 2 * super().token_logits(state)

    memory, _ = logits(Doubled(CONFIG).eval())
    assert memory.packed_decoder is None


@torch.no_grad()
def test_dropout_of_a_single_block_is_noticed(model: Reg4RecModel) -> None:
    assert logits(model)[0].packed_decoder is not None
    model.get_submodule("decoder.1.dropout").train()
    assert logits(model)[0].packed_decoder is None


@torch.no_grad()
def test_no_other_weights_take_the_address_of_those_that_were_packed(model: Reg4RecModel) -> None:
    parameters = list(model.parameters())
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in parameters), generator=g), parameters)
        _, logits_BPX = logits(model)
        with ops.use_backend("eager"):
            _, expected_BPX = logits(model)
        torch.testing.assert_close(logits_BPX, expected_BPX, rtol=1e-3, atol=1e-3)


def readers(model: Reg4RecModel) -> list[nn.Module]:
    return [model.get_submodule(f"decoder.{n}.cross_kv") for n in range(2)]


def test_cases_in_which_torch_decodes(model: Reg4RecModel) -> None:
    weights = PackedWeights(packed_encoder)

    def packed() -> Packed | None:
        return weights.of(model.encoder, *readers(model))

    with torch.no_grad():
        assert packed() is None
    with torch.inference_mode():
        assert packed() is not None
        with selected_isa("base"), torch.autocast("cpu", torch.bfloat16):
            assert packed() is None
        with torch.autocast("cpu", torch.float16):
            assert packed() is None
        with ops.use_backend("eager"):
            assert packed() is None
        model.train()
        assert packed() is None
        model.eval().double()
        assert packed() is None
    with torch.inference_mode():  # whose tensors do not record writes
        made = Reg4RecModel(CONFIG).eval()
        assert weights.of(made.encoder, *readers(made)) is None


@pytest.mark.parametrize("isa", BF16_ISAS)
def test_bfloat16_if_cpp_multiplies_it(model: Reg4RecModel, isa: str) -> None:
    with selected_bf16(isa):
        _, expected_BPX = logits(model)
        with torch.autocast("cpu", torch.bfloat16):
            memory, logits_BPX = logits(model)
            assert logits(model)[0].packed_decoder is memory.packed_decoder
            state_BPD, _ = decode_step(model, memory, None, 0, None)  # torch's layers, on a memory of float32
        assert state_BPD.isfinite().all()
        assert memory.packed_decoder is not None
        assert memory.packed_decoder.weights_Y.dtype == torch.bfloat16
        assert logits_BPX.dtype == torch.float32
        assert not torch.equal(logits_BPX, expected_BPX)
        torch.testing.assert_close(logits_BPX, expected_BPX, rtol=0.02, atol=0.02 * float(expected_BPX.abs().max()))
        assert torch.equal(logits(model)[1], expected_BPX)
