"""From paths to items on cases made by hand: buckets, relaxed matches, token scores."""

import math

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.search import Paths
from reg4rec.search.ranking import SOURCES, Ranking, bucket_ranks, rank_items

NEVER = -math.inf
K = 4


def paths_of(tokens: list[list[int]], scores: list[float], first_log_probs: Tensor | None = None) -> Paths:
    """The paths of one user."""
    tokens_BWM = torch.tensor([tokens])
    num_codebooks = tokens_BWM.shape[2]
    log_probs = torch.zeros(1, num_codebooks, K) if first_log_probs is None else first_log_probs[None]
    none = torch.zeros(1, dtype=torch.int64)
    return Paths(tokens_BWM, tokens_BWM, torch.tensor([scores]), tokens_BWM, tokens_BWM, log_probs, none, none)


def scoring(scores_BI: Tensor, num_codebooks: int) -> ops.ItemScoring:
    """Scoring that gives these scores: each user's state picks a column of the items' residuals."""
    users = len(scores_BI)
    nothing = torch.zeros(users, num_codebooks, K), torch.full((users, 1), -1), torch.zeros(())
    return ops.ItemScoring(nothing[0], torch.eye(users), scores_BI.T, *nothing[1:])


def rank(
    paths: Paths,
    codes: list[list[int]],
    num_items: int,
    rank_I: list[int] | None = None,
    exclude: list[int] | None = None,
    allowed: list[int] | None = None,
    item_scores: list[float] | None = None,
) -> list[tuple[int, str, int, float]]:
    """(item, source, path, score) of every place of one user."""
    codes_IM = torch.tensor(codes)
    everything = list(range(len(codes)))
    allowed_I = torch.zeros(len(codes), dtype=torch.bool)
    allowed_I[everything if allowed is None else allowed] = True
    index = ops.TokenIndex.build(codes_IM, K, None if allowed is None else torch.tensor(allowed))
    found: Ranking = rank_items(
        paths,
        index,
        torch.tensor(everything if rank_I is None else rank_I),
        num_items,
        None if exclude is None else torch.tensor([exclude]),
        allowed_I,
        None if item_scores is None else scoring(torch.tensor([item_scores]), codes_IM.shape[1]),
    )
    columns = (found.items_BN, found.source_BN, found.path_BN, found.scores_BN)
    places = zip(*(column[0].tolist() for column in columns), strict=True)
    return [(item, SOURCES[source] if source >= 0 else "", path, score) for item, source, path, score in places]


def test_bucket_order_is_cosine_then_popularity_then_lowest_row() -> None:
    cosine_I = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.5, 0.1])
    popularity_I = torch.tensor([3, 1, 7, 1, 3, 100])
    assert bucket_ranks(cosine_I, popularity_I).tolist() == [3, 0, 2, 1, 4, 5]


def test_relaxed_matches_take_the_most_tokens_then_the_best_path() -> None:
    paths = paths_of([[0, 0, 0], [1, 1, 0], [1, 1, 1], [-1, -1, -1]], [-1.0, -2.0, -3.0, NEVER])
    codes = [[0, 1, 1], [1, 1, 3], [3, 3, 3], [2, 2, 2], [0, 0, 0], [0, 3, 0]]
    found = rank(paths, codes, 6)
    assert found[:4] == [
        (4, "path", 0, -1.0),
        (5, "relaxed", 0, -1.0),
        (1, "relaxed", 1, -2.0),  # shares two tokens with paths 1 and 2: the better one
        (0, "relaxed", 2, -3.0),
    ]
    assert {source for _, source, *_ in found[4:]} == {"tokens"}


def test_items_of_better_paths_come_first_and_a_bucket_by_its_order() -> None:
    codes = [[0, 0], [1, 1], [0, 0], [2, 2], [1, 1], [0, 0]]
    found = rank(paths_of([[1, 1], [0, 0], [-1, -1]], [-1.0, -2.0, NEVER]), codes, 4, rank_I=[5, 4, 1, 0, 2, 3])
    assert found == [(4, "path", 0, -1.0), (1, "path", 0, -1.0), (2, "path", 1, -2.0), (5, "path", 1, -2.0)]


def test_excluded_items_of_a_bucket_are_left_out() -> None:
    codes = [[0, 0], [0, 0], [0, 0]]
    found = rank(paths_of([[0, 0]], [-1.0]), codes, 3, exclude=[1, -1])
    assert [item for item, *_ in found] == [0, 2, -1]
    assert found[2] == (-1, "", -1, NEVER)


def test_what_paths_leave_open_is_filled_by_near_items_then_by_token_scores() -> None:
    log_probs_MK = torch.full((3, K), -9.0)
    log_probs_MK[:, 3] = torch.tensor([-0.1, -0.2, -0.3])
    codes = [
        [3, 3, 2],  # no token of a path; two likely ones
        [0, 0, 3],  # two tokens of path 0
        [0, 0, 0],  # path 0
        [1, 1, 2],  # two tokens of path 1, first in the bucket order
        [3, 3, 3],  # no token of a path, likely ones
        [0, 0, 2],  # two tokens of path 0, earlier in the bucket order than item 1
        [2, 2, 2],  # nothing
    ]
    paths = paths_of([[0, 0, 0], [1, 1, 1]], [-1.0, -2.0], log_probs_MK)
    found = rank(paths, codes, 8, rank_I=[6, 5, 4, 0, 3, 2, 1])
    assert [(item, source, path) for item, source, path, _ in found] == [
        (2, "path", 0),
        (5, "relaxed", 0),
        (1, "relaxed", 0),
        (3, "relaxed", 1),
        (4, "tokens", -1),
        (0, "tokens", -1),
        (6, "tokens", -1),
        (-1, "", -1),
    ]
    scores = [score for *_, score in found]
    assert scores == pytest.approx([-1.0, -1.0, -1.0, -2.0, -0.6, -9.3, -27.0, NEVER])


@pytest.mark.parametrize(("num_codebooks", "wrong"), [(2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (9, 3)])
def test_a_third_of_the_tokens_may_be_wrong_and_at_least_one(num_codebooks: int, wrong: int) -> None:
    codes = [[1] * n + [0] * (num_codebooks - n) for n in range(num_codebooks + 1)]
    found = rank(paths_of([[0] * num_codebooks], [-1.0]), codes, num_codebooks + 1)
    sources = {item: source for item, source, *_ in found}
    assert [sources[n] for n in range(num_codebooks + 1)] == ["path"] + ["relaxed"] * wrong + ["tokens"] * (
        num_codebooks - wrong
    )


def test_more_matching_tokens_come_before_a_better_path() -> None:
    codes = [[0, 0, 0, 0, 3, 3], [1, 1, 1, 1, 1, 3]]
    found = rank(paths_of([[0] * 6, [1] * 6], [-1.0, -5.0]), codes, 2)
    assert [(item, source, path) for item, source, path, _ in found] == [(1, "relaxed", 1), (0, "relaxed", 0)]


def test_an_item_without_any_matching_token_is_no_relaxed_match() -> None:
    found = rank(paths_of([[0]], [-1.0]), [[0], [1], [2]], 3)
    assert [(item, source) for item, source, *_ in found] == [(0, "path"), (1, "tokens"), (2, "tokens")]


def test_fewer_items_only_where_fewer_are_allowed() -> None:
    codes = [[0, 0], [0, 1], [2, 2], [3, 3]]
    found = rank(paths_of([[0, 0]], [-1.0]), codes, 4, exclude=[0, -1], allowed=[0, 1, 3])
    assert [(item, source) for item, source, *_ in found] == [(1, "relaxed"), (3, "tokens"), (-1, ""), (-1, "")]
    nobody = rank(paths_of([[-1, -1]], [NEVER]), codes, 2, exclude=[0, 1, 2, 3])
    assert nobody == [(-1, "", -1, NEVER)] * 2


def test_a_path_of_some_tokens_leads_to_all_items_that_carry_them_each_once() -> None:
    codes = [[0, 2], [1, 1], [0, 1], [0, 3], [2, 2]]
    found = rank(paths_of([[-1, 1], [0, -1]], [-1.0, -2.0]), codes, 5, rank_I=[4, 3, 2, 1, 0])
    assert [(item, source, path) for item, source, path, _ in found] == [
        (2, "path", 0),
        (1, "path", 0),
        (3, "path", 1),
        (0, "path", 1),
        (4, "tokens", -1),
    ]


def test_item_scores_order_what_the_paths_find() -> None:
    codes = [[0, 2], [1, 1], [0, 1], [0, 3], [2, 2]]
    paths = paths_of([[-1, 1], [0, -1]], [-1.0, -2.0])
    found = rank(paths, codes, 4, item_scores=[3.0, 5.0, 4.0, 7.0, 99.0])
    assert found == [(3, "path", 1, 7.0), (1, "path", 0, 5.0), (2, "path", 0, 4.0), (0, "path", 1, 3.0)]
    few = rank(paths, codes, 3, exclude=[3, -1], allowed=[0, 2, 3], item_scores=[3.0, 5.0, 4.0, 7.0, 99.0])
    assert few == [(2, "path", 0, 4.0), (0, "path", 1, 3.0), (-1, "", -1, NEVER)]


def test_equal_scores_go_by_path_then_by_the_order_of_a_bucket() -> None:
    codes = [[0, 0], [1, 1], [0, 0], [1, 1], [0, 3]]
    paths = paths_of([[1, 1], [0, -1]], [-1.0, -2.0])
    found = rank(paths, codes, 5, rank_I=[3, 4, 1, 2, 0], item_scores=[1.0, 1.0, 1.0, 1.0, 2.0])
    assert [(item, path) for item, _, path, _ in found] == [(4, 1), (3, 0), (1, 0), (2, 1), (0, 1)]


def test_every_user_has_separate_item_scores() -> None:
    none = torch.zeros(2, dtype=torch.int64)
    tokens_BWM = torch.tensor([[[0]], [[0]]])
    paths = Paths(
        tokens_BWM, tokens_BWM, torch.full((2, 1), -1.0), tokens_BWM, tokens_BWM, torch.zeros(2, 1, K), none, none
    )
    scores_BI = torch.tensor([[1.0, 2.0, 3.0], [5.0, 4.0, 6.0]])
    codes_IM = torch.zeros(3, 1, dtype=torch.int64)
    allowed_I = torch.ones(3, dtype=torch.bool)
    exclude_BX = torch.tensor([[-1], [2]])
    index = ops.TokenIndex.build(codes_IM, K)
    found = rank_items(paths, index, torch.arange(3), 3, exclude_BX, allowed_I, scoring(scores_BI, 1))
    assert found.items_BN.tolist() == [[2, 1, 0], [0, 1, -1]]
    assert found.scores_BN.tolist() == [[3.0, 2.0, 1.0], [5.0, 4.0, NEVER]]


def filled_by_definition(
    paths: Paths, b: int, codes_IM: Tensor, rank_I: Tensor, banned: set[int], num_items: int
) -> list[tuple[int, str, int]]:
    """(item, source, path) of a user's places, straight from D11."""
    living = [w for w, score in enumerate(paths.scores_BW[b].tolist()) if score > NEVER]
    tokens_WM, num_codebooks = paths.tokens_BWM[b], codes_IM.shape[1]
    fewest = num_codebooks - max(1, num_codebooks // 3)
    matches: dict[int, tuple[int, int]] = {}
    for item in sorted(set(range(len(codes_IM))) - banned):
        shared = {w: int((codes_IM[item] == tokens_WM[w]).sum()) for w in living}
        best = min(shared, key=lambda w: (-shared[w], w), default=-1)
        if living and shared[best] >= fewest:
            matches[item] = (shared[best], best)

    def place(item: int) -> tuple[int, float, int]:
        shared, w = matches[item]
        return (-shared, -float(paths.scores_BW[b, w]), int(rank_I[item]))

    def likeliness(item: int) -> tuple[float, int]:
        return (-float(paths.first_log_probs_BMK[b, range(num_codebooks), codes_IM[item]].sum()), item)

    found = [
        (item, "path" if matches[item][0] == num_codebooks else "relaxed", matches[item][1])
        for item in sorted(matches, key=place)
    ]
    rest = set(range(len(codes_IM))) - banned - matches.keys()
    return (found + [(item, "tokens", -1) for item in sorted(rest, key=likeliness)])[:num_items]


@pytest.mark.parametrize("num_items", [3, 12, 60])
@pytest.mark.parametrize("num_codebooks", [2, 3, 6])
@pytest.mark.parametrize("listed_at_once", [1, 10_000])
@pytest.mark.parametrize("pairs", [False, True])
def test_users_of_a_batch_are_filled_by_definition(
    num_codebooks: int, num_items: int, pairs: bool, listed_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.search.ranking.LISTED_AT_ONCE", listed_at_once)
    g = torch.Generator().manual_seed(num_codebooks)
    users, width, catalog = 9, 4, 50
    codes_IM = torch.randint(0, K, (catalog, num_codebooks), generator=g)
    drawn_BW = torch.randint(0, catalog, (users, width), generator=g)
    tokens_BWM = codes_IM[drawn_BW]  # paths of items, one token of the second replaced, and no path twice
    tokens_BWM[:, 1, 0] = (tokens_BWM[:, 1, 0] + 1) % K
    scores_BW = -torch.rand(users, width, generator=g).sort(1).values
    for b in range(users):
        seen = set[tuple[int, ...]]()
        for w in range(width):
            path = tuple(tokens_BWM[b, w].tolist())
            if path in seen or w >= b:  # user 0 has no path at all
                tokens_BWM[b, w:], scores_BW[b, w:] = -1, NEVER
            seen.add(path)
    log_probs_BMK = torch.randn(users, num_codebooks, K, generator=g).log_softmax(-1)
    none = torch.zeros(users, dtype=torch.int64)
    paths = Paths(tokens_BWM, tokens_BWM, scores_BW, tokens_BWM, tokens_BWM, log_probs_BMK, none, none)
    rank_I = torch.randperm(catalog, generator=g)
    allowed_I = torch.rand(catalog, generator=g) < 0.9
    exclude_BX = torch.randint(-1, catalog, (users, 5), generator=g)
    index = ops.TokenIndex.build(codes_IM, K, allowed_I.nonzero().squeeze(1), pairs)
    found = rank_items(paths, index, rank_I, num_items, exclude_BX, allowed_I)
    for b in range(users):
        banned = {*exclude_BX[b].tolist(), *(~allowed_I).nonzero().squeeze(1).tolist()}
        expected = filled_by_definition(paths, b, codes_IM, rank_I, banned, num_items)
        columns = (found.items_BN[b], found.source_BN[b], found.path_BN[b])
        places = list(zip(*(column.tolist() for column in columns), strict=True))
        assert [(item, SOURCES[s], w) for item, s, w in places[: len(expected)]] == expected
        assert all(place == (-1, -1, -1) for place in places[len(expected) :])
