"""The encoder-decoder: training and search see the same states, and nothing sees the future."""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reg4rec.errors import InputError
from reg4rec.model import (
    HistoryLayout,
    ModelConfig,
    PathCache,
    Reg4RecModel,
    decode_paths,
    decode_step,
    last_states,
    layers,
    remember,
)
from reg4rec.model.layers import DecoderBlock
from tests.artifacts import reseal

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
BATCH, LENGTH, M, K, I = 3, 5, CONFIG.num_codebooks, CONFIG.codebook_size, 11  # noqa: E741
LAYOUTS: tuple[HistoryLayout, ...] = ("pooled", "flat")
KINDS = list(itertools.product(LAYOUTS, (0, I)))


class Windows(NamedTuple):
    """Random histories, and random orders of their tokens."""

    codes_BLM: Tensor
    order_BLM: Tensor
    items_BL: Tensor


@pytest.fixture(params=KINDS, ids=str)
def model(request: pytest.FixtureRequest) -> Reg4RecModel:
    """Models of both layouts, of tokens alone and with a score of whole items."""
    layout, num_items = request.param
    return make_model(replace(CONFIG, history_layout=layout, num_items=num_items))


@pytest.fixture(params=LAYOUTS)
def item_model(request: pytest.FixtureRequest) -> Reg4RecModel:
    return make_model(replace(CONFIG, history_layout=request.param, num_items=I))


@pytest.fixture
def case() -> Windows:
    draw = torch.Generator().manual_seed(7)
    codes_BLM = torch.randint(0, K, (BATCH, LENGTH, M), generator=draw)
    order_BLM = torch.rand(BATCH, LENGTH, M, generator=draw).argsort(-1)
    return Windows(codes_BLM, order_BLM, torch.randint(0, I, (BATCH, LENGTH), generator=draw))


def make_model(config: ModelConfig) -> Reg4RecModel:
    """Random weights in float64, none at its neutral starting value."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Reg4RecModel(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def decode_targets(model: Reg4RecModel, codes_BLM: Tensor, order_BLM: Tensor, items_BL: Tensor | None = None) -> Tensor:
    """States (B, L, M + 1, D) with every item of every user as the target."""
    memory_BJD, number_J = model.encode(codes_BLM[:, :-1], None if items_BL is None else items_BL[:, :-1])
    return model.decode_on(memory_BJD, number_J, codes_BLM, order_BLM, torch.arange(codes_BLM.shape[1]))


def path_states(model: Reg4RecModel, history_LM: Tensor, items_L: Tensor, tokens: list[tuple[int, int]]) -> Tensor:
    """States (t + 1, D) of one path, token by token, for one user alone; tokens are (codebook, code)."""
    memory = remember(model, history_LM[None], torch.tensor([len(history_LM)]), items_L[None])
    state, cache = decode_step(model, memory, None, 0, None)
    states = [state[0, 0]]
    for step, (r, j) in enumerate(tokens, 1):
        state, cache = decode_step(model, memory, torch.tensor([[r * K + j]]), step, cache)
        states.append(state[0, 0])
    return torch.stack(states)


def in_order(codes_M: Tensor, order_M: Tensor) -> list[tuple[int, int]]:
    return [(r, int(codes_M[r])) for r in order_M.tolist()]


def places() -> Iterator[tuple[int, int]]:
    return itertools.product(range(BATCH), range(LENGTH))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@torch.no_grad()
def test_one_pass_equals_path_by_path(model: Reg4RecModel, case: Windows) -> None:
    codes_BLM, order_BLM, items_BL = case
    states = decode_targets(model, *case)
    assert states.shape == (BATCH, LENGTH, M + 1, CONFIG.dim)
    for b, item in places():
        tokens = in_order(codes_BLM[b, item], order_BLM[b, item])
        close(states[b, item], path_states(model, codes_BLM[b, :item], items_BL[b, :item], tokens))


@torch.no_grad()
def test_many_paths_of_many_users_equal_each_path_alone(model: Reg4RecModel, case: Windows) -> None:
    codes_BLM, _, items_BL = case
    lengths = [5, 0, 3]
    paths = [[(0, 1), (2, 3), (1, 0)], [(2, 3), (1, 4), (0, 1)], [(1, 0), (0, 0), (2, 0)], [(0, 1), (1, 0), (2, 3)]]
    memory = remember(model, codes_BLM, torch.tensor(lengths), items_BL)
    state_BPD, cache = decode_step(model, memory, None, 0, None)
    assert state_BPD.shape == (BATCH, 1, CONFIG.dim)
    token_BPS = torch.tensor([[[r * K + j for r, j in path] for path in paths]] * BATCH)
    whole_BPTD = decode_paths(model, memory, token_BPS)
    close(whole_BPTD[:, :, 0], state_BPD.expand(-1, 4, -1))
    some = decode_paths(model, memory.of_users(torch.tensor([2, 0])), token_BPS[:2])
    close(some, whole_BPTD[[2, 0]])
    cache = cache.of_paths(torch.zeros(BATCH, 4, dtype=torch.int64))
    for step in range(1, M + 1):
        state_BPD, cache = decode_step(model, memory, token_BPS[:, :, step - 1], step, cache)
        close(state_BPD, whole_BPTD[:, :, step])
        for b, length in enumerate(lengths):
            for p, path in enumerate(paths):
                alone = path_states(model, codes_BLM[b, :length], items_BL[b, :length], path[:step])
                close(state_BPD[b, p], alone[-1])


@torch.no_grad()
def test_fewer_paths_go_on_where_the_cache_must_grow(model: Reg4RecModel, case: Windows) -> None:
    """After step 4 the cache is full; rows of ended paths are kept for the paths that go through them."""
    block, g = model.decoder[0], torch.Generator().manual_seed(0)
    assert isinstance(block, DecoderBlock)
    memory = remember(model, case[0], torch.tensor([5, 0, 3]), case[2])
    x_SBPD = torch.randn(6, BATCH, 4, CONFIG.dim, generator=g, dtype=torch.float64)
    cache = PathCache.empty(memory, 4)
    for step, x_BPD in enumerate(x_SBPD):
        living = [1, 3] if step == 5 else [0, 1, 2, 3]
        cache = PathCache(cache.kept_BTRZAQ, cache.rows_BPS[:, living]).grown()
        kept_BTR2AQ = cache.kept_BTRZAQ[:, :, :, :2]
        found = block.step(x_BPD[:, living], kept_BTR2AQ, cache.rows_BPS, memory.of_block(0), memory.visible_B11J)
    whole_BPTD = block(x_SBPD[:, :, [1, 3]].permute(1, 2, 0, 3), memory.of_block(0), None, memory.visible_B11J)
    close(found, whole_BPTD[:, :, -1])


@pytest.mark.parametrize("used", [[0, 1, 2], [2, 0], [1]])
@torch.no_grad()
def test_logits_of_one_codebook_are_those_among_all(model: Reg4RecModel, used: list[int]) -> None:
    g = torch.Generator().manual_seed(0)
    state_BPD = torch.randn(4, 6, CONFIG.dim, generator=g, dtype=torch.float64)
    codebook_BP = torch.tensor(used)[torch.randint(0, len(used), (4, 6), generator=g)]
    among_all = model.token_logits(state_BPD).gather(2, codebook_BP[..., None, None].expand(-1, -1, 1, K))[:, :, 0]
    close(model.codebook_logits(state_BPD, codebook_BP), among_all)
    assert model.codebook_logits(state_BPD[:0], codebook_BP[:0]).shape == (0, 6, K)


@torch.no_grad()
def test_the_first_codebooks_of_some_columns_are_a_part_of_the_whole(model: Reg4RecModel, case: Windows) -> None:
    codes_BLM, order_BLM, items_BL = case
    memory_BJD, number_J = model.encode(codes_BLM[:, :-1], items_BL[:, :-1])
    whole = decode_targets(model, *case)
    for columns, fed in itertools.product(([0, 1, 2, 3, 4], [1, 4], [3]), range(M + 1)):
        order_BTM = order_BLM[:, columns, :fed]
        part = model.decode_on(memory_BJD, number_J, codes_BLM[:, columns], order_BTM, torch.tensor(columns))
        close(part, whole[:, columns, : fed + 1])


@torch.no_grad()
def test_a_target_sees_the_items_before_it_and_none_after(model: Reg4RecModel, case: Windows) -> None:
    before = decode_targets(model, *case)
    for item in range(LENGTH):
        changed_BLM = case.codes_BLM.clone()
        changed_BLM[:, item] = (changed_BLM[:, item] + 1) % K
        after = decode_targets(model, changed_BLM, case.order_BLM, case.items_BL)
        close(after[:, :item], before[:, :item])
        close(after[:, item, 0], before[:, item, 0])  # its own tokens are not known before they are fed
        moved = (after - before).abs().amax(-1)
        assert (moved[:, item, 1:] > 1e-4).all()
        assert (moved[:, item + 1 :] > 1e-4).all()


@torch.no_grad()
def test_a_target_knows_which_items_stand_before_it_and_never_which_it_is(
    item_model: Reg4RecModel, case: Windows
) -> None:
    before = decode_targets(item_model, *case)
    for item in range(LENGTH):
        changed_BL = case.items_BL.clone()
        changed_BL[:, item] = (changed_BL[:, item] + 1) % I
        after = decode_targets(item_model, case.codes_BLM, case.order_BLM, changed_BL)
        close(after[:, : item + 1], before[:, : item + 1])
        assert ((after - before)[:, item + 1 :].abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_a_state_knows_the_tokens_fed_and_no_other(model: Reg4RecModel, case: Windows) -> None:
    codes_BLM, order_BLM, items_BL = case
    before = decode_targets(model, *case)[:, -1]
    for step in range(M):
        changed_BLM = codes_BLM.clone()
        codebook = order_BLM[:, -1, step : step + 1]
        changed_BLM[:, -1].scatter_(1, codebook, (codes_BLM[:, -1].gather(1, codebook) + 2) % K)
        after = decode_targets(model, changed_BLM, order_BLM, items_BL)[:, -1]
        close(after[:, : step + 1], before[:, : step + 1])
        assert ((after - before)[:, step + 1 :].abs().amax(-1) > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("fill", [0, K - 1])
def test_padding_does_not_matter(model: Reg4RecModel, case: Windows, fill: int) -> None:
    codes_BLM, _, items_BL = case
    for b, length in enumerate((4, 0, 2)):
        padded_LM = torch.full((LENGTH + 2, M), fill)
        padded_LM[:length] = codes_BLM[b, :length]
        items_L = torch.full((LENGTH + 2,), fill)
        items_L[:length] = items_BL[b, :length]
        memory = remember(model, padded_LM[None], torch.tensor([length]), items_L[None])
        state, cache = decode_step(model, memory, None, 0, None)
        state, _ = decode_step(model, memory, torch.tensor([[K + 2]]), 1, cache)
        close(state[0, 0], path_states(model, codes_BLM[b, :length], items_BL[b, :length], [(1, 2)])[-1])


@torch.no_grad()
def test_users_of_a_batch_do_not_see_each_other(model: Reg4RecModel, case: Windows) -> None:
    together = decode_targets(model, *case)
    for b in range(BATCH):
        close(together[b : b + 1], decode_targets(model, *(x[b : b + 1] for x in case)))


@torch.no_grad()
def test_a_path_depends_on_the_order_of_its_tokens(model: Reg4RecModel, case: Windows) -> None:
    history = (case.codes_BLM[0], case.items_BL[0])
    one = path_states(model, *history, [(0, 1), (1, 2)])[-1]
    other = path_states(model, *history, [(1, 2), (0, 1)])[-1]
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_flat_layout_knows_the_order_of_the_codebooks(layout: HistoryLayout, case: Windows) -> None:
    model, renamed = (make_model(replace(CONFIG, history_layout=layout)) for _ in range(2))
    turn = torch.tensor([2, 0, 1])
    renamed.tokens_MKD.copy_(model.tokens_MKD[turn])
    one, numbers = model.embed_history(case.codes_BLM, None)
    other, _ = renamed.embed_history(case.codes_BLM[..., turn], None)
    if layout == "pooled":
        assert numbers.tolist() == [0, 1, 2, 3, 4, 5]
        close(one, other)
    else:
        assert numbers.tolist() == [0] + [n for n in range(1, LENGTH + 1) for _ in range(M + 1)]
        assert (one - other).abs().max() > 1e-2


@torch.no_grad()
def test_the_order_of_the_history_matters(model: Reg4RecModel, case: Windows) -> None:
    codes_LM, items_L = case.codes_BLM[0], case.items_BL[0]
    one = path_states(model, codes_LM, items_L, [])[-1]
    other = path_states(model, codes_LM.flip(0), items_L.flip(0), [])[-1]
    assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_logits_are_products_with_the_codewords(model: Reg4RecModel, case: Windows) -> None:
    state = decode_targets(model, *case)
    logits = model.token_logits(state)
    assert logits.shape == (BATCH, LENGTH, M + 1, M, K)
    for r, j in itertools.product(range(M), range(K)):
        close(logits[..., r, j], (state * model.tokens_MKD[r, j]).sum(-1))
    categories = model.category_logits(state)
    assert categories is not None
    assert categories.shape == (BATCH, LENGTH, M + 1, 4)


@torch.no_grad()
def test_a_model_without_categories_has_no_category_head(case: Windows) -> None:
    model = make_model(replace(CONFIG, num_categories=0))
    assert model.category_logits(decode_targets(model, *case)) is None
    assert not [name for name, _ in model.named_parameters() if "category" in name]


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"dropout": 0.0, "num_items": I}], ids=str)
def test_dropout_acts_in_training_only(rates: dict[str, float], case: Windows) -> None:
    model = make_model(ModelConfig(**{**asdict(CONFIG), **rates}))
    assert torch.equal(decode_targets(model, *case), decode_targets(model, *case))
    model.train()
    assert not torch.equal(decode_targets(model, *case), decode_targets(model, *case))


@torch.no_grad()
def test_an_item_is_the_sum_of_its_tokens_and_its_residual(item_model: Reg4RecModel, case: Windows) -> None:
    vectors_BLD = item_model.embed_items(case.codes_BLM, case.items_BL)
    for b, item in places():
        own_D = item_model.residual_ID[case.items_BL[b, item]]
        tokens_MD = torch.stack([item_model.tokens_MKD[r, case.codes_BLM[b, item, r]] for r in range(M)])
        close(vectors_BLD[b, item], tokens_MD.sum(0) + own_D)


@torch.no_grad()
def test_the_pooled_history_is_made_of_the_vectors_that_are_scored(case: Windows) -> None:
    model = make_model(replace(CONFIG, num_items=I))
    x_BJD, _ = model.embed_history(case.codes_BLM, case.items_BL)
    vectors_BLD = model.embed_items(case.codes_BLM, case.items_BL)
    close(x_BJD[:, 1:], model.norm_history(vectors_BLD * CONFIG.dim**0.5))


@torch.no_grad()
def test_the_memory_keeps_the_state_after_the_last_item(model: Reg4RecModel, case: Windows) -> None:
    codes_BLM, _, items_BL = case
    lengths = [5, 0, 3]
    memory = remember(model, codes_BLM, torch.tensor(lengths), items_BL)
    for b, length in enumerate(lengths):
        alone_BJD, _ = model.encode(codes_BLM[b : b + 1, :length], items_BL[b : b + 1, :length])
        close(memory.state_BD[b], alone_BJD[0, -1])


@torch.no_grad()
def test_states_alone_are_those_of_the_memory(model: Reg4RecModel, case: Windows) -> None:
    codes_IM, length_B = case.codes_BLM.flatten(0, 1)[:I], torch.tensor([4, 0, 2])
    memory = remember(model, codes_IM[case.items_BL], length_B, case.items_BL)
    item_T = case.items_BL[torch.arange(LENGTH) < length_B[:, None]]
    close(last_states(model, item_T, length_B, codes_IM), memory.state_BD)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_decoder_adds_nothing_to_the_state_that_scores_items(layout: HistoryLayout, case: Windows) -> None:
    model = Reg4RecModel(replace(CONFIG, history_layout=layout, num_items=I)).double().eval()
    assert not model.repeat_bias
    memory_BJD, _ = model.encode(case.codes_BLM, case.items_BL)
    state_BL1D = memory_BJD[:, :: model.slots_per_item][:, :LENGTH, None]
    close(decode_targets(model, *case), state_BL1D.expand(-1, -1, M + 1, -1))


def test_a_model_that_scores_items_needs_item_rows(item_model: Reg4RecModel, case: Windows) -> None:
    with pytest.raises(ValueError, match="needs item rows too, found only codes"):
        decode_targets(item_model, case.codes_BLM, case.order_BLM)


@torch.no_grad()
def test_a_saved_model_comes_back_as_the_same_bits(model: Reg4RecModel, case: Windows, tmp_path: Path) -> None:
    model = model.float().train()
    model.save_pretrained(tmp_path)
    loaded = Reg4RecModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(decode_targets(loaded, *case), decode_targets(model.eval(), *case))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_loaded_model_is_mapped_from_its_file_which_stays_unchanged(tmp_path: Path) -> None:
    make_model(replace(CONFIG, num_items=I)).float().save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = Reg4RecModel.from_pretrained(tmp_path)
    assert str(tmp_path / "model.safetensors") in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        loaded.residual_ID.fill_(7)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_damaged_model_folders_are_named(tmp_path: Path) -> None:
    make_model(replace(CONFIG, num_items=I)).float().save_pretrained(tmp_path)
    header = json.loads((tmp_path / "model.json").read_text())

    def refused(message: str, **changes: object) -> None:
        reseal(tmp_path / "model.json", {**header, **changes})
        with pytest.raises(InputError, match=message):
            Reg4RecModel.from_pretrained(tmp_path)

    refused("do not fit the configuration", config={**header["config"], "dim": 32})
    refused("does not contain a complete model", config={"num_codebooks": 3})
    refused("does not contain a complete model", config={**header["config"], "wings": 2})
    refused("does not contain a complete model", config={**header["config"], "dim": "16"})
    refused(r"residual_ID is \(\(11, 16\).* where \(\(12, 16\)", config={**header["config"], "num_items": I + 1})
    refused(r"refine\.bias .* where None was expected", config={**header["config"], "num_items": 0})
    refused("an even multiple of num_heads", config={**header["config"], "num_heads": 3})
    refused("install a newer", version=99)
    refused("has format", format="reg4rec-tokenizer")
    (tmp_path / "model.safetensors").unlink()
    refused(r"model\.safetensors is missing")


def test_fused_attention_of_more_rows_than_a_grid_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(11, 2, length, 4) for length in (1, 5, 5))
    whole = layers._attend_fused(q, k, v, None)
    monkeypatch.setattr(layers, "MOST_BLOCKS", 4)
    torch.testing.assert_close(layers._attend_fused(q, k, v, None), whole)
    torch.testing.assert_close(whole, layers.attend(q, k, v, None))
