"""The encoder-decoder: training and search see the same states, and nothing sees the future."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reg4rec.errors import InputError
from reg4rec.model import HistoryLayout, ModelConfig, Reg4RecModel

CONFIG = ModelConfig(
    num_codebooks=3,
    codebook_size=5,
    num_categories=4,
    dim=16,
    num_heads=2,
    ffn_dim=24,
    num_blocks=2,
    max_history=6,
)
BATCH, LENGTH, M, K = 3, 5, CONFIG.num_codebooks, CONFIG.codebook_size
LAYOUTS: tuple[HistoryLayout, ...] = ("pooled", "flat")


@pytest.fixture(params=LAYOUTS)
def model(request: pytest.FixtureRequest) -> Reg4RecModel:
    return make_model(replace(CONFIG, history_layout=request.param))


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """(codes_BLM, order_BLM), random."""
    draw = torch.Generator().manual_seed(7)
    codes_BLM = torch.randint(0, K, (BATCH, LENGTH, M), generator=draw)
    return codes_BLM, torch.rand(BATCH, LENGTH, M, generator=draw).argsort(-1)


def make_model(config: ModelConfig) -> Reg4RecModel:
    """Random weights in float64, all of them away from their neutral starting values."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Reg4RecModel(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def path_states(model: Reg4RecModel, history_LM: Tensor, tokens: list[tuple[int, int]]) -> Tensor:
    """States (t + 1, D) of one path, token by token, for one user alone; tokens are (codebook, code)."""
    memory = model.remember(history_LM[None], torch.tensor([len(history_LM)]))
    state, cache = model.decode_step(memory, None, 0, None)
    states = [state[0, 0]]
    for step, (r, j) in enumerate(tokens, 1):
        state, cache = model.decode_step(memory, torch.tensor([[r * K + j]]), step, cache)
        states.append(state[0, 0])
    return torch.stack(states)


def in_order(codes_M: Tensor, order_M: Tensor) -> list[tuple[int, int]]:
    return [(r, int(codes_M[r])) for r in order_M.tolist()]


def places() -> Iterator[tuple[int, int]]:
    return itertools.product(range(BATCH), range(LENGTH))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@torch.no_grad()
def test_one_pass_equals_path_by_path(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    codes_BLM, order_BLM = case
    states = model.decode_targets(codes_BLM, order_BLM)
    assert states.shape == (BATCH, LENGTH, M + 1, CONFIG.dim)
    for b, item in places():
        tokens = in_order(codes_BLM[b, item], order_BLM[b, item])
        close(states[b, item], path_states(model, codes_BLM[b, :item], tokens))


@torch.no_grad()
def test_many_paths_of_many_users_equal_each_path_alone(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    codes_BLM, _ = case
    lengths = [5, 0, 3]
    paths = [[(0, 1), (2, 3), (1, 0)], [(2, 3), (1, 4), (0, 1)], [(1, 0), (0, 0), (2, 0)], [(0, 1), (1, 0), (2, 3)]]
    memory = model.remember(codes_BLM, torch.tensor(lengths))
    state_BPD, cache = model.decode_step(memory, None, 0, None)
    assert state_BPD.shape == (BATCH, 1, CONFIG.dim)
    cache = [(k.expand(-1, 4, -1, -1, -1), v.expand(-1, 4, -1, -1, -1)) for k, v in cache]
    for step in range(1, M + 1):
        token_BP = torch.tensor([[path[step - 1][0] * K + path[step - 1][1] for path in paths]] * BATCH)
        state_BPD, cache = model.decode_step(memory, token_BP, step, cache)
        for b, length in enumerate(lengths):
            for p, path in enumerate(paths):
                close(state_BPD[b, p], path_states(model, codes_BLM[b, :length], path[:step])[-1])


@torch.no_grad()
def test_the_first_codebooks_only_is_the_beginning_of_the_whole(
    model: Reg4RecModel, case: tuple[Tensor, Tensor]
) -> None:
    codes_BLM, order_BLM = case
    memory_BSD, number_S = model.encode(codes_BLM[:, :-1])
    whole = model.decode_targets(codes_BLM, order_BLM)
    for fed in range(M + 1):
        part = model.decode_on(memory_BSD, number_S, codes_BLM, order_BLM[..., :fed])
        close(part, whole[:, :, : fed + 1])


@torch.no_grad()
def test_a_target_sees_the_items_before_it_and_none_after(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    codes_BLM, order_BLM = case
    before = model.decode_targets(codes_BLM, order_BLM)
    for item in range(LENGTH):
        changed_BLM = codes_BLM.clone()
        changed_BLM[:, item] = (changed_BLM[:, item] + 1) % K
        after = model.decode_targets(changed_BLM, order_BLM)
        close(after[:, :item], before[:, :item])
        close(after[:, item, 0], before[:, item, 0])  # its own tokens are not known before they are fed
        moved = (after - before).abs().amax(-1)
        assert (moved[:, item, 1:] > 1e-4).all()
        assert (moved[:, item + 1 :] > 1e-4).all()


@torch.no_grad()
def test_a_state_knows_the_tokens_fed_and_no_other(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    codes_BLM, order_BLM = case
    before = model.decode_targets(codes_BLM, order_BLM)[:, -1]
    for step in range(M):
        changed_BLM = codes_BLM.clone()
        codebook = order_BLM[:, -1, step : step + 1]
        changed_BLM[:, -1].scatter_(1, codebook, (codes_BLM[:, -1].gather(1, codebook) + 2) % K)
        after = model.decode_targets(changed_BLM, order_BLM)[:, -1]
        close(after[:, : step + 1], before[:, : step + 1])
        assert ((after - before)[:, step + 1 :].abs().amax(-1) > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("fill", [0, K - 1])
def test_padding_does_not_matter(model: Reg4RecModel, case: tuple[Tensor, Tensor], fill: int) -> None:
    codes_BLM, _ = case
    for b, length in enumerate((4, 0, 2)):
        padded_LM = torch.full((LENGTH + 2, M), fill)
        padded_LM[:length] = codes_BLM[b, :length]
        memory = model.remember(padded_LM[None], torch.tensor([length]))
        state, cache = model.decode_step(memory, None, 0, None)
        state, _ = model.decode_step(memory, torch.tensor([[K + 2]]), 1, cache)
        close(state[0, 0], path_states(model, codes_BLM[b, :length], [(1, 2)])[-1])


@torch.no_grad()
def test_users_of_a_batch_do_not_see_each_other(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    codes_BLM, order_BLM = case
    together = model.decode_targets(codes_BLM, order_BLM)
    for b in range(BATCH):
        close(together[b : b + 1], model.decode_targets(codes_BLM[b : b + 1], order_BLM[b : b + 1]))


@torch.no_grad()
def test_a_path_depends_on_the_order_of_its_tokens(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    history_LM = case[0][0]
    one = path_states(model, history_LM, [(0, 1), (1, 2)])[-1]
    other = path_states(model, history_LM, [(1, 2), (0, 1)])[-1]
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_flat_layout_knows_the_order_of_the_codebooks(
    layout: HistoryLayout, case: tuple[Tensor, Tensor]
) -> None:
    model, renamed = (make_model(replace(CONFIG, history_layout=layout)) for _ in range(2))
    turn = torch.tensor([2, 0, 1])
    renamed.tokens_MKD.copy_(model.tokens_MKD[turn])
    one, numbers = model.embed_history(case[0])
    other, _ = renamed.embed_history(case[0][..., turn])
    if layout == "pooled":
        assert numbers.tolist() == [0, 1, 2, 3, 4, 5]
        close(one, other)
    else:
        assert numbers.tolist() == [0] + [n for n in range(1, LENGTH + 1) for _ in range(M + 1)]
        assert (one - other).abs().max() > 1e-2


@torch.no_grad()
def test_the_order_of_the_history_matters(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    history_LM = case[0][0]
    one = path_states(model, history_LM, [])[-1]
    other = path_states(model, history_LM.flip(0), [])[-1]
    assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_logits_are_products_with_the_codewords(model: Reg4RecModel, case: tuple[Tensor, Tensor]) -> None:
    state = model.decode_targets(*case)
    logits = model.token_logits(state)
    assert logits.shape == (BATCH, LENGTH, M + 1, M, K)
    for r, j in itertools.product(range(M), range(K)):
        close(logits[..., r, j], (state * model.tokens_MKD[r, j]).sum(-1))
    categories = model.category_logits(state)
    assert categories is not None
    assert categories.shape == (BATCH, LENGTH, M + 1, 4)


@torch.no_grad()
def test_a_model_without_categories_has_no_category_head(case: tuple[Tensor, Tensor]) -> None:
    model = make_model(replace(CONFIG, num_categories=0))
    assert model.category_logits(model.decode_targets(*case)) is None
    assert not [name for name, _ in model.named_parameters() if "category" in name]


def test_dropout_acts_in_training_only(case: tuple[Tensor, Tensor]) -> None:
    model = make_model(replace(CONFIG, dropout=0.5))
    assert torch.equal(model.decode_targets(*case), model.decode_targets(*case))
    model.train()
    assert not torch.equal(model.decode_targets(*case), model.decode_targets(*case))


@torch.no_grad()
def test_a_saved_model_comes_back_as_the_same_bits(
    model: Reg4RecModel, case: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    model = model.float().train()
    model.save_pretrained(tmp_path)
    loaded = Reg4RecModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded.decode_targets(*case), model.eval().decode_targets(*case))


def test_damaged_model_folders_are_named(tmp_path: Path) -> None:
    make_model(CONFIG).float().save_pretrained(tmp_path)
    header = json.loads((tmp_path / "model.json").read_text())

    def refused(message: str, **changes: object) -> None:
        (tmp_path / "model.json").write_text(json.dumps({**header, **changes}))
        with pytest.raises(InputError, match=message):
            Reg4RecModel.from_pretrained(tmp_path)

    refused("does not hold a whole model", config={**header["config"], "dim": 32})
    refused("does not hold a whole model", config={"num_codebooks": 3})
    refused("does not hold a whole model", config={**header["config"], "wings": 2})
    refused("does not hold a whole model", config={**header["config"], "dim": "16"})
    refused("an even multiple of num_heads", config={**header["config"], "num_heads": 3})
    refused("install a newer", version=99)
    refused("has format", format="reg4rec-tokenizer")
    (tmp_path / "model.safetensors").unlink()
    refused(r"model\.safetensors is missing")
