"""The search against a plain one that decodes every path from its start, and its promises on a trained model."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.model import HistoryLayout, Memory, ModelConfig, Reg4RecModel, decode_step, remember
from reg4rec.recommend import Recommender
from reg4rec.search import Paths, SearchConfig, SearchOrder, search, step_indexes

M, K, C, I = 3, 4, 5, 14  # noqa: E741
NEVER = -math.inf


class Path(NamedTuple):
    """One path of the plain search: its tokens (codebook, code) in order, and its state."""

    tokens: tuple[tuple[int, int], ...]
    score: float
    categories: tuple[int, ...] = ()
    js: float | None = None


@dataclass
class Found:
    paths: list[Path]
    pruned: int = 0
    fallbacks: int = 0


def encoded(model: Reg4RecModel, codes_IM: Tensor, histories: Sequence[Sequence[int]]) -> Memory:
    """Histories of item rows, padded and encoded."""
    lengths = torch.tensor([len(h) for h in histories])
    item_BL = torch.tensor([[*h, *[0] * (int(lengths.max()) - len(h))] for h in histories], dtype=torch.long)
    return remember(model, codes_IM[item_BL], lengths, item_BL)


@torch.no_grad()
def decode(model: Reg4RecModel, memory: Memory, tokens: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor | None]:
    """Token logits (t + 1, M, K) and category logits (t, C) along one path of one user."""
    state, cache = decode_step(model, memory, None, 0, None)
    states = [state[0, 0]]
    for step, (r, j) in enumerate(tokens, 1):
        state, cache = decode_step(model, memory, torch.tensor([[r * model.config.codebook_size + j]]), step, cache)
        states.append(state[0, 0])
    stacked = torch.stack(states)
    return model.token_logits(stacked), model.category_logits(stacked[1:])


def divergence(before_C: Tensor, after_C: Tensor) -> float:
    """Jensen-Shannon divergence of two rows of logits, in nats, in float64."""
    p, q = before_C.double().softmax(0), after_C.double().softmax(0)
    mean = (p + q) / 2
    return float(0.5 * (p * (p / mean).log()).sum() + 0.5 * (q * (q / mean).log()).sum())


def slow_search(
    model: Reg4RecModel, memory: Memory, codes_IM: Tensor, allowed: Sequence[int], config: SearchConfig
) -> Found:
    """The same search for one user: plain sets, every path decoded from its beginning."""
    theta = config.prune_threshold if model.config.num_categories else None
    width = config.num_beams + (0 if theta is None else config.num_spares)
    items = [frozenset(enumerate(codes_IM[i].tolist())) for i in allowed]
    found = Found([Path((), 0.0)])
    for step in range(config.num_steps or codes_IM.shape[1]):
        best: dict[frozenset[tuple[int, int]], Path] = {}
        for path in survivors(found, config.num_beams, theta):
            held = frozenset(path.tokens)
            tokens = {token for item in items if held <= item for token in item - held}
            logits = decode(model, memory, path.tokens)[0][-1].double()
            if model.config.renormalize:
                closed = torch.tensor([[(r, j) not in tokens for j in range(K)] for r in range(len(logits))])
                logits = logits.masked_fill(closed, NEVER)
            log_probs = logits.log_softmax(-1)
            for r, j in tokens:
                if config.order == "fixed" and r != step:
                    continue
                child = Path((*path.tokens, (r, j)), path.score + float(log_probs[r, j]))
                key = frozenset(child.tokens)
                if key not in best or child.score > best[key].score:
                    best[key] = child
        ranked = sorted(best.values(), key=lambda path: -path.score)[:width]
        found.paths = [judged(model, memory, path) for path in ranked]
    found.paths = survivors(found, config.num_beams, theta)
    return found


def survivors(found: Found, num_beams: int, theta: float | None) -> list[Path]:
    paths = found.paths
    if theta is not None and paths and paths[0].js is not None:
        kept = [path for path in paths if path.js is not None and path.js <= theta]
        if not kept:
            kept = [min(paths, key=lambda path: path.js or 0.0)]
            found.fallbacks += 1
        found.pruned += len(paths) - len(kept)
        paths = kept
    return paths[:num_beams]


def judged(model: Reg4RecModel, memory: Memory, path: Path) -> Path:
    logits_SC = decode(model, memory, path.tokens)[1]
    if logits_SC is None:
        return path
    js = divergence(logits_SC[-2], logits_SC[-1]) if len(logits_SC) > 1 else None
    return path._replace(categories=tuple(logits_SC.argmax(-1).tolist()), js=js)


def small_model(
    layout: HistoryLayout, num_categories: int, num_items: int, seed: int, renormalize: bool = False
) -> Reg4RecModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ModelConfig(
            M, K, num_categories, dim=16, num_heads=2, ffn_dim=16, num_blocks=1, history_layout=layout,
            renormalize=renormalize, num_items=num_items,
        )  # fmt: skip
        model = Reg4RecModel(config).eval()
        with torch.no_grad():
            model.tokens_MKD.mul_(3.0)
            for parameter in model.decoder.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            if num_items:
                model.refine.weight.normal_(std=0.3)
                model.residual_ID.normal_()
    return model


def steps_of(codes_IM: Tensor, codebook_size: int = K, order: SearchOrder = "confidence") -> list[ops.TokenIndex]:
    """The index that each step of a search over all items reads."""
    return step_indexes(ops.TokenIndex.build(codes_IM, codebook_size), order)


def small_catalog(seed: int) -> Tensor:
    """codes_IM, with a few items that share all tokens."""
    codes_IM = torch.randint(0, K, (I, M), generator=torch.Generator().manual_seed(seed))
    codes_IM[3] = codes_IM[7]
    return codes_IM


WIDE = 4 * I * M  # more than there are sets of tokens at any step


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig(WIDE, 0, None),
        SearchConfig(WIDE, 0, 0.02),
        SearchConfig(WIDE, 0, 0.0),
        SearchConfig(3, 2, None),
        SearchConfig(3, 2, 0.02),
        SearchConfig(3, 0, 0.005),
        SearchConfig(1, 0, None),
        SearchConfig(1, 3, 0.01),
        SearchConfig(4, 1, 0.02),
        SearchConfig(WIDE, 0, None, num_steps=2),
        SearchConfig(WIDE, 0, 0.02, num_steps=2),
        SearchConfig(3, 2, 0.02, num_steps=2),
        SearchConfig(3, 2, 0.02, num_steps=1),
        SearchConfig(3, 2, 0.02, num_steps=M),
        SearchConfig(4, 2, 0.02, order="fixed"),
        SearchConfig(4, 2, 0.02, order="fixed", num_steps=2),
        SearchConfig(4, 2, None, order="fixed", num_steps=1),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("layout", "num_categories", "num_items"), [("pooled", C, 0), ("flat", C, I), ("pooled", 0, 0), ("pooled", C, I)]
)
def test_the_search_equals_a_plain_one(
    layout: HistoryLayout, num_categories: int, num_items: int, config: SearchConfig
) -> None:
    model, codes_IM = small_model(layout, num_categories, num_items, seed=3), small_catalog(seed=5)
    histories: list[list[int]] = [[1, 4, 9, 2], [], [13], [6, 6, 0]]
    excluded = [[1, 4], [], list(range(I)), [3, 5, 8]]
    exclude_BX = torch.tensor([x + [-1] * (I - len(x)) for x in excluded])
    memory = encoded(model, codes_IM, histories)
    paths = search(model, memory, steps_of(codes_IM, order=config.order), config, exclude_BX)
    for b, history in enumerate(histories):
        allowed = [i for i in range(I) if i not in excluded[b]]
        alone = encoded(model, codes_IM, [history])
        compare(paths, b, slow_search(model, alone, codes_IM, allowed, config), config, num_categories)


@pytest.mark.parametrize("num_steps", [2, M])
def test_renormalized_paths_have_the_scores_of_a_plain_search(num_steps: int) -> None:
    """Sets alone: a codebook with a single token left makes exact ties between orders."""
    model, codes_IM = small_model("pooled", 0, I, seed=3, renormalize=True), small_catalog(seed=5)
    config = SearchConfig(WIDE, 0, None, num_steps=num_steps)
    memory = encoded(model, codes_IM, [[1, 4, 9, 2]])
    excluded = [1, 4, 8]
    paths = search(model, memory, steps_of(codes_IM), config, torch.tensor([excluded]))
    found = {
        frozenset((r, j) for r, j in enumerate(row) if j >= 0): score
        for row, score in zip(paths.tokens_BWM[0].tolist(), paths.scores_BW[0].tolist(), strict=True)
        if score > NEVER
    }
    plain = slow_search(model, memory, codes_IM, [i for i in range(I) if i not in excluded], config)
    assert found == pytest.approx({frozenset(path.tokens): path.score for path in plain.paths}, abs=1e-4)


def compare(paths: Paths, b: int, expected: Found, config: SearchConfig, num_categories: int) -> None:
    alive = int((paths.scores_BW[b] > NEVER).sum())
    assert alive == len(expected.paths)
    assert (paths.tokens_BWM[b, alive:] == -1).all()
    assert (paths.order_BWM[b, alive:] == -1).all()
    assert paths.scores_BW[b, :alive].tolist() == pytest.approx([p.score for p in expected.paths], abs=1e-4)
    # the last state is decoded only where CORP asks for it
    num_steps = config.num_steps or M
    known_steps = 0 if not num_categories else num_steps - (config.prune_threshold is None)
    for w, path in enumerate(expected.paths):
        order = paths.order_BWM[b, w].tolist()
        assert order[num_steps:] == [-1] * (M - num_steps)
        assert [(r, int(paths.tokens_BWM[b, w, r])) for r in order[:num_steps]] == list(path.tokens)
        assert int((paths.tokens_BWM[b, w] >= 0).sum()) == num_steps
        categories = paths.categories_BWM[b, w].tolist()
        assert categories == [*path.categories[:known_steps], *[-1] * (M - known_steps)]
    assert int(paths.fallbacks_B[b]) == expected.fallbacks
    assert int(paths.pruned_B[b]) == expected.pruned


@pytest.mark.parametrize("seed", range(3))
def test_wide_beams_find_every_set_by_its_best_order(seed: int) -> None:
    """With two codebooks no path is merged before its end, so that the best of all orders must be found."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Reg4RecModel(ModelConfig(2, K, 0, dim=16, num_heads=2, ffn_dim=16, num_blocks=1)).eval()
    codes_IM = small_catalog(seed)[:, :2]
    memory = encoded(model, codes_IM, [[2, 5]])
    best: dict[tuple[int, ...], float] = {}
    for codes in {tuple(row) for row in codes_IM.tolist()}:
        for order in permutations(range(2)):
            tokens = [(r, codes[r]) for r in order]
            log_probs = decode(model, memory, tokens)[0].log_softmax(-1)
            score = sum(float(log_probs[step, r, j]) for step, (r, j) in enumerate(tokens))
            best[codes] = max(best.get(codes, NEVER), score)
    paths = search(model, memory, steps_of(codes_IM), SearchConfig(WIDE))
    found = {
        tuple(row): score
        for row, score in zip(paths.tokens_BWM[0].tolist(), paths.scores_BW[0].tolist(), strict=True)
        if score > NEVER
    }
    assert found == pytest.approx(best, abs=1e-4)
    assert list(found) == sorted(best, key=lambda codes: -best[codes])
    first_MK = decode(model, memory, ())[0][0].log_softmax(-1)
    torch.testing.assert_close(paths.first_log_probs_BMK[0], first_MK)


def check_promises(
    paths: Paths, model: Reg4RecModel, memories: list[Memory], codes_IM: Tensor, allowed: list[set[int]]
) -> None:
    """Every path an allowed item's token set, no set twice, scores as recomputed and falling."""
    for b, memory in enumerate(memories):
        sets = {tuple(codes_IM[i].tolist()) for i in allowed[b]}
        alive = int((paths.scores_BW[b] > NEVER).sum())
        rows = [tuple(row) for row in paths.tokens_BWM[b, :alive].tolist()]
        assert alive > 0
        assert len(set(rows)) == len(rows)
        assert set(rows) <= sets
        assert (paths.scores_BW[b].diff()[: max(0, alive - 1)] <= 0).all()
        for w in range(alive):
            order = paths.order_BWM[b, w].tolist()
            assert sorted(order) == list(range(codes_IM.shape[1]))
            tokens = [(r, rows[w][r]) for r in order]
            log_probs = decode(model, memory, tokens)[0].double().log_softmax(-1)
            total = sum(float(log_probs[step, r, j]) for step, (r, j) in enumerate(tokens))
            assert float(paths.scores_BW[b, w]) == pytest.approx(total, abs=1e-4)


class Users(NamedTuple):
    """Twelve users, one of them without a history, encoded together and each alone."""

    memory: Memory
    alone: list[Memory]
    history_BX: Tensor


@pytest.fixture(scope="module")
def users(shop: SyntheticShop, recommender: Recommender) -> Users:
    histories = [*(shop.sequences[u].tolist() for u in range(11)), []]
    model, codes_IM = recommender.model, recommender.codes_IM
    rows = [torch.tensor(history, dtype=torch.long) for history in histories]
    with torch.no_grad():
        return Users(
            encoded(model, codes_IM, histories),
            [encoded(model, codes_IM, [history]) for history in histories],
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1),
        )


@pytest.mark.parametrize("threshold", [None, 0.06])
def test_a_trained_model_returns_items_that_exist(
    users: Users, recommender: Recommender, threshold: float | None
) -> None:
    codes_IM = recommender.codes_IM
    some = torch.arange(0, len(codes_IM), 2)
    index = ops.TokenIndex.build(codes_IM, recommender.model.config.codebook_size, some)
    model = copy.copy(recommender.model)
    model.config = replace(model.config, renormalize=False)
    paths = search(model, users.memory, [index] * codes_IM.shape[1], SearchConfig(8, 4, threshold), users.history_BX)
    seen = [set(row[row >= 0].tolist()) for row in users.history_BX]
    check_promises(paths, model, users.alone, codes_IM, [set(some.tolist()) - s for s in seen])


def adjacent_divergences(model: Reg4RecModel, memory: Memory, paths: Paths, b: int, w: int) -> list[float]:
    tokens = [(r, int(paths.tokens_BWM[b, w, r])) for r in paths.order_BWM[b, w].tolist()]
    logits_SC = decode(model, memory, tokens)[1]
    assert logits_SC is not None
    return [divergence(logits_SC[s - 1], logits_SC[s]) for s in range(1, len(tokens))]


def test_without_a_threshold_nothing_is_pruned(users: Users, recommender: Recommender) -> None:
    config = SearchConfig(8, 4, None)
    paths = search(recommender.model, users.memory, step_indexes(recommender.index, "confidence"), config)
    assert (paths.scores_BW[:, 0] > NEVER).all()
    assert not paths.pruned_B.any()
    assert not paths.fallbacks_B.any()


@pytest.mark.parametrize("threshold", [0.02, 0.06, 0.2])
def test_with_a_threshold_every_survivor_is_consistent(
    users: Users, recommender: Recommender, threshold: float
) -> None:
    config = SearchConfig(8, 4, threshold)
    paths = search(recommender.model, users.memory, step_indexes(recommender.index, "confidence"), config)
    consistent = 0
    for b, memory in enumerate(users.alone):
        for w in range(int((paths.scores_BW[b] > NEVER).sum())):
            if not paths.fallbacks_B[b]:
                assert max(adjacent_divergences(recommender.model, memory, paths, b, w)) <= threshold + 1e-4
                consistent += 1
    assert consistent > 0 or paths.fallbacks_B.all()
    assert paths.pruned_B.sum() > 0


def test_a_threshold_of_zero_is_a_fallback_for_everyone(users: Users, recommender: Recommender) -> None:
    steps_judged = recommender.codes_IM.shape[1] - 1
    paths = search(
        recommender.model, users.memory, step_indexes(recommender.index, "confidence"), SearchConfig(8, 4, 0.0)
    )
    assert (paths.fallbacks_B == steps_judged).all()
    assert ((paths.scores_BW > NEVER).sum(1) == 1).all()


def test_spares_replace_what_was_dropped(shop: SyntheticShop, recommender: Recommender) -> None:
    """Counted over many users, since one user's later steps may differ and keep fewer."""
    histories = shop.part("train").take(range(200))

    def living(spares: int) -> int:
        chosen = recommender.with_search(num_beams=8, num_spares=spares, prune_threshold=0.06)
        return sum(int((found.paths.scores_BW > NEVER).sum()) for found in chosen.search(histories, 5, False))

    assert living(12) > 1.1 * living(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_spares": -1}, "num_spares at least 0"),
        ({"prune_threshold": -0.1}, "must be 0 nats or more"),
        ({"prune_threshold": math.nan}, "must be 0 nats or more"),
        ({"order": "backwards"}, "order must be one of"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SearchConfig(), **change)  # type: ignore[arg-type]
