"""Fused blocks take the model's weights as they are at the moment, and torch's layers run where they must."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.kernels.machine import native_problem
from reg4rec.model import Linear, Memory, ModelConfig, Reg4RecModel
from reg4rec.model.layers import DecoderBlock, PackedWeights

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
CONFIG = ModelConfig(num_codebooks=3, codebook_size=7, num_categories=4, dim=16, num_heads=2, ffn_dim=24, num_items=30)


@pytest.fixture
def model() -> Reg4RecModel:
    torch.manual_seed(0)
    made = Reg4RecModel(CONFIG).eval()
    nn.init.normal_(made.refine.weight)  # which is 0 at first and would hide the decoder
    return made


@torch.inference_mode()
def states(model: Reg4RecModel) -> tuple[Memory, Tensor]:
    """Histories of 5 and 2 items, and the states of three paths after a token."""
    g = torch.Generator().manual_seed(1)
    memory = model.remember(torch.randint(7, (2, 5, 3), generator=g), torch.tensor([5, 2]), torch.arange(10).view(2, 5))
    _, cache = model.decode_step(memory, None, 0, None)
    cache = cache.of_paths(torch.zeros(2, 3, dtype=torch.int64))
    state_BPD, _ = model.decode_step(memory, torch.tensor([[0, 9, 20]]).expand(2, 3), 1, cache)
    return memory, state_BPD


@torch.no_grad()
def test_they_say_what_the_layers_say(model: Reg4RecModel) -> None:
    memory, state_BPD = states(model)
    with ops.use_backend("eager"):
        plain, expected_BPD = states(model)
    assert memory.weights_YN is not None
    assert plain.weights_YN is None
    torch.testing.assert_close(state_BPD, expected_BPD)
    torch.testing.assert_close(memory.state_BD, plain.state_BD)


def check_it_counts(model: Reg4RecModel, before_BPD: Tensor) -> None:
    """Whether a change of the model shows, as it does in torch's layers."""
    _, state_BPD = states(model)
    with ops.use_backend("eager"):
        _, expected_BPD = states(model)
    assert not torch.allclose(state_BPD, before_BPD)
    torch.testing.assert_close(state_BPD, expected_BPD)


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


@pytest.mark.parametrize("change", [write, replace, load, optimize])
@torch.no_grad()
def test_changed_weights_are_packed_anew(model: Reg4RecModel, change: Callable[[nn.Linear], None]) -> None:
    first, before_BPD = states(model)
    again, _ = states(model)
    assert again.weights_YN is first.weights_YN
    part = model.get_submodule("decoder.1.ffn.up")
    assert isinstance(part, nn.Linear)
    change(part)
    check_it_counts(model, before_BPD)


@torch.no_grad()
def test_a_copy_has_its_own(model: Reg4RecModel) -> None:
    _, before_BPD = states(model)
    other = copy.deepcopy(model)
    other.get_parameter("encoder.0.qkv.weight").mul_(2)
    _, changed_BPD = states(other)
    with ops.use_backend("eager"):
        _, expected_BPD = states(other)
    torch.testing.assert_close(changed_BPD, expected_BPD)
    assert torch.equal(states(model)[1], before_BPD)


def change_layer(model: Reg4RecModel) -> None:
    model.get_submodule("decoder.1.ffn").up = Linear(16, 24)


def change_block(model: Reg4RecModel) -> None:
    model.decoder[1] = DecoderBlock(16, 2, 24, 0.1).eval()


def parametrize(model: Reg4RecModel) -> None:
    nn.utils.parametrizations.weight_norm(model.get_submodule("decoder.1.cross_q"))
    model.get_parameter("decoder.1.cross_q.parametrizations.weight.original0").mul_(2)


def hook(model: Reg4RecModel) -> None:
    model.get_submodule("decoder.1.ffn.down").register_forward_hook(lambda _, __, y: 2 * y)


@pytest.mark.parametrize("change", [change_layer, change_block, parametrize, hook])
@torch.no_grad()
def test_whatever_is_done_to_a_layer_counts(model: Reg4RecModel, change: Callable[[Reg4RecModel], None]) -> None:
    _, before_BPD = states(model)
    change(model)
    check_it_counts(model, before_BPD)


@torch.no_grad()
def test_no_other_weights_take_the_address_of_those_that_were_packed(model: Reg4RecModel) -> None:
    parameters = list(model.parameters())
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in parameters), generator=g), parameters)
        _, state_BPD = states(model)
        with ops.use_backend("eager"):
            _, expected_BPD = states(model)
        torch.testing.assert_close(state_BPD, expected_BPD, rtol=1e-3, atol=1e-3)


def test_where_torch_decodes(model: Reg4RecModel) -> None:
    weights = PackedWeights()
    with torch.no_grad():
        assert weights.of(model.decoder) is None
    with torch.inference_mode():
        assert weights.of(model.decoder) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert weights.of(model.decoder) is None
        with ops.use_backend("eager"):
            assert weights.of(model.decoder) is None
        assert weights.of(model.train().decoder) is None
        assert weights.of(model.eval().double().decoder) is None
    with torch.inference_mode():  # whose tensors do not tell of writes
        assert weights.of(Reg4RecModel(CONFIG).eval().encoder) is None
