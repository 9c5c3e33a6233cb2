"""From reasoning paths to items: exact token sets first, then what D11 puts in when these are too few."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.infer.search import Paths
from reg4rec.kernels.beam_step.index import TokenIndex
from reg4rec.kernels.beam_step.reference import is_excluded, items_with_tokens

__all__ = ["SOURCES", "ItemScores", "Ranking", "bucket_ranks", "rank_items", "relaxed_matches"]

SOURCES = ("path", "relaxed", "tokens", "item score")
"""Where an item came from: an exact path; a path with a few wrong tokens; the scores of its tokens before step 1; a
score of the item itself, in models that have no tokens."""


ItemScores = Callable[[Tensor, Tensor], Tensor]
"""Scores (T,) of items (rows, T) for users (places in the batch, T)."""


class Ranking(NamedTuple):
    """items_BN (rows, best first, -1 for none), scores_BN, source_BN (position in SOURCES, -1), path_BN (of W, -1).

    invalid_B: paths that no allowed item carries in full, 0 in a constrained search.
    """

    items_BN: Tensor
    scores_BN: Tensor
    source_BN: Tensor
    path_BN: Tensor
    invalid_B: Tensor


def rank_items(
    paths: Paths,
    index: TokenIndex,
    rank_I: Tensor,
    num_items: int,
    exclude_BX: Tensor | None,
    allowed_I: Tensor,
    item_scores: ItemScores | None = None,
    path_weight: float = 0.0,
) -> Ranking:
    """The best `num_items` allowed items of every user; fewer only where fewer are allowed.

    A path leads to all items that carry its tokens. With `item_scores` these come by their own score, to which that of
    their best path is added with `path_weight`. Without, items of better paths come first, and items of one path by
    rank_I (see `bucket_ranks`). Scores are these for `path`, the path's for `relaxed`, the sum of the tokens'
    first-step log-probabilities for `tokens`, so they fall within a source and not always across two.
    Paper: CORP, ours, D3 and D11.
    """
    ranking = _exact(paths, index, rank_I, num_items, exclude_BX, item_scores, path_weight)
    for b in (ranking.items_BN < 0).any(1).nonzero().squeeze(1).tolist():
        _fill_user(ranking, b, paths, index, rank_I, exclude_BX, allowed_I)
    return ranking


def bucket_ranks(cosine_I: Tensor, popularity_I: Tensor) -> Tensor:
    """rank_I, lower is earlier: cosine of item and path vector, then popularity, then lowest row (D3)."""
    order = popularity_I.sort(descending=True, stable=True).indices
    order = order[cosine_I[order].sort(descending=True, stable=True).indices]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def relaxed_matches(tokens_WM: Tensor, scores_W: Tensor, codes_IM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per item the most tokens that it shares with one living path, the best score of a path with that count, its row.

    Paper: path-to-item matching, ours, D11.
    """
    matched_I = torch.zeros(len(codes_IM), dtype=torch.int64, device=codes_IM.device)
    score_I = torch.full(matched_I.shape, -torch.inf, device=codes_IM.device)
    path_I = torch.full_like(matched_I, -1)
    for w in (scores_W > -torch.inf).nonzero().squeeze(1).tolist():  # best first: the first of equal counts stays
        matched = (codes_IM == tokens_WM[w]).sum(1)
        better = matched > matched_I
        matched_I = torch.where(better, matched, matched_I)
        score_I = torch.where(better, scores_W[w], score_I)
        path_I = torch.where(better, w, path_I)
    return matched_I, score_I, path_I


def _exact(
    paths: Paths,
    index: TokenIndex,
    rank_I: Tensor,
    num_items: int,
    exclude_BX: Tensor | None,
    item_scores: ItemScores | None,
    path_weight: float,
) -> Ranking:
    batch = len(paths.tokens_BWM)
    device = rank_I.device
    path_B, path_W = (paths.scores_BW > -torch.inf).nonzero(as_tuple=True)
    path_T, item_T = items_with_tokens(paths.tokens_BWM[path_B, path_W], index)
    if exclude_BX is not None:
        keep_T = ~is_excluded(path_B[path_T], item_T, len(rank_I), exclude_BX)
        path_T, item_T = path_T[keep_T], item_T[keep_T]
    is_valid = torch.zeros_like(path_B, dtype=torch.bool).index_fill_(0, path_T, True)
    invalid_B = torch.bincount(path_B[~is_valid], minlength=batch)
    # paths stand best first, so the first of an item is its best
    key_T, order = (path_B[path_T] * len(rank_I) + item_T).sort(stable=True)
    first = order[torch.nn.functional.pad(key_T[1:] != key_T[:-1], (1, 0), value=True)[: len(key_T)]]
    path_T, item_T = path_T[first], item_T[first]
    user_T, row_T = path_B[path_T], path_W[path_T]
    scores_T = paths.scores_BW[user_T, row_T]
    if item_scores is not None:
        scores_T = item_scores(user_T, item_T).to(scores_T.dtype) + path_weight * scores_T
    order = rank_I[item_T].sort(stable=True).indices
    order = order[row_T[order].sort(stable=True).indices]
    order = order[scores_T[order].sort(descending=True, stable=True).indices]
    order = order[user_T[order].sort(stable=True).indices]
    user_T, row_T, item_T, scores_T = user_T[order], row_T[order], item_T[order], scores_T[order]
    begin_B = torch.searchsorted(user_T, torch.arange(batch, device=device))
    place_T = torch.arange(len(user_T), device=device) - begin_B[user_T]
    fits_T = place_T < num_items
    at = (user_T[fits_T], place_T[fits_T])

    def table(fill: float, values_T: Tensor) -> Tensor:
        return torch.full((batch, num_items), fill, dtype=values_T.dtype, device=device).index_put_(
            at, values_T[fits_T]
        )

    return Ranking(
        table(-1, item_T), table(-torch.inf, scores_T), table(-1, torch.zeros_like(item_T)), table(-1, row_T), invalid_B
    )


def _fill_user(
    ranking: Ranking,
    b: int,
    paths: Paths,
    index: TokenIndex,
    rank_I: Tensor,
    exclude_BX: Tensor | None,
    allowed_I: Tensor,
) -> None:
    """Fill the empty places of one user by relaxed matching, then by token scores."""
    first = int((ranking.items_BN[b] >= 0).sum())
    open_I = allowed_I.clone()
    if exclude_BX is not None:
        open_I[exclude_BX[b][exclude_BX[b] >= 0]] = False
    open_I[ranking.items_BN[b, :first]] = False

    matched_I, score_I, path_I = relaxed_matches(paths.tokens_BWM[b], paths.scores_BW[b], index.codes_IM)
    decoded = int((paths.tokens_BWM[b] >= 0).sum(1).amax())
    fewest = max(1, decoded - max(1, decoded // 3))
    close_X = (open_I & (matched_I >= fewest)).nonzero().squeeze(1)
    close_X = close_X[rank_I[close_X].sort(stable=True).indices]
    close_X = close_X[score_I[close_X].sort(descending=True, stable=True).indices]
    close_X = close_X[matched_I[close_X].sort(descending=True, stable=True).indices]
    first = _write(ranking, b, first, close_X, score_I[close_X], 1, path_I[close_X])
    open_I[close_X] = False

    rest_X = open_I.nonzero().squeeze(1)
    wanted = min(ranking.items_BN.shape[1] - first, len(rest_X))
    scores_1N, place_1N = ops.item_topk(paths.first_log_probs_BMK[b : b + 1], index.codes_IM[rest_X], wanted)
    _write(ranking, b, first, rest_X[place_1N[0]], scores_1N[0], 2, torch.full_like(place_1N[0], -1))


def _write(ranking: Ranking, b: int, first: int, items: Tensor, scores: Tensor, source: int, path: Tensor) -> int:
    last = min(first + len(items), ranking.items_BN.shape[1])
    count = last - first
    ranking.items_BN[b, first:last] = items[:count]
    ranking.scores_BN[b, first:last] = scores[:count]
    ranking.source_BN[b, first:last] = source
    ranking.path_BN[b, first:last] = path[:count]
    return last
