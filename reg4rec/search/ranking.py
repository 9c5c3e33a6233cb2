"""From reasoning paths to items: exact token sets first; if these are too few, the fallbacks of D11."""

from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.model import Reg4RecModel
from reg4rec.search.beam import Paths

__all__ = ["SOURCES", "Ranking", "bucket_ranks", "item_scoring", "rank_items", "ranked_by_score"]

SOURCES = ("path", "relaxed", "tokens", "item score")
"""How an item was found: by an exact path; by a path with a few wrong tokens; by the probabilities of its tokens before
step 1; by the model's score of the item."""

LISTED_AT_ONCE = 1 << 22
"""About how many items relaxed matching examines together; keeps memory small in large catalogs."""


class Ranking(NamedTuple):
    """N items for each user, best first, -1 for none: rows, scores, positions in SOURCES, and numbers of paths in W."""

    items_BN: Tensor
    scores_BN: Tensor
    source_BN: Tensor
    path_BN: Tensor


def ranked_by_score(scores_BN: Tensor, items_BN: Tensor) -> Ranking:
    """The ranking of items (rows, -1 for none) that the model's item score found, not a path."""
    source_BN = torch.where(items_BN < 0, -1, SOURCES.index("item score"))
    return Ranking(items_BN, scores_BN, source_BN, torch.full_like(items_BN, -1))


def rank_items(
    paths: Paths,
    index: ops.TokenIndex,
    rank_I: Tensor,
    num_items: int,
    exclude_BX: Tensor | None,
    allowed_I: Tensor,
    scoring: ops.ItemScoring | None = None,
) -> Ranking:
    """The best `num_items` allowed items for every user; fewer only if fewer are allowed.

    A path leads to all items that have its tokens. With `scoring` these are sorted by the model's item score. Without,
    items of better paths come first, and items of the same path are sorted by rank_I (see `bucket_ranks`).

    The meaning of a score depends on the source: `path`, the item's score or its path's; `relaxed`, the path's score;
    `tokens`, the sum of the tokens' first-step log-probabilities. Scores fall within a source (`relaxed`: among items
    that share equally many tokens), not across sources. The index must list exactly the allowed items.
    Paper: CORP, ours, D3 and D11.
    """
    scores_BN, items_BN, path_BN = ops.path_topk(
        paths.tokens_BWM, paths.scores_BW, index, rank_I, num_items, exclude_BX, scoring
    )
    source_BN = torch.where(items_BN < 0, -1, SOURCES.index("path"))
    ranking = Ranking(items_BN, scores_BN, source_BN, path_BN)
    if len(short_b := _with_open_places(ranking)):  # splitting an empty tensor would give one empty part
        for some_b in short_b.split(_users_at_once(paths, index)):
            _fill_relaxed(ranking, some_b, paths, index, rank_I, exclude_BX)
    if len(short_b := _with_open_places(ranking)):
        _fill_by_tokens(ranking, short_b, paths, index, exclude_BX, allowed_I)
    return ranking


def item_scoring(model: Reg4RecModel, state_BD: Tensor, history_BX: Tensor) -> ops.ItemScoring:
    """The model's item score for users with these encoder states and histories (item rows, -1 for none)."""
    # half precision would round different scores to ties
    with torch.autocast(state_BD.device.type, enabled=False):
        state_BD = state_BD.to(model.begin.dtype)
        logits_BMK = model.token_logits(state_BD)
    return ops.ItemScoring(logits_BMK, state_BD, model.residual_ID, history_BX, model.repeat_bias)


def bucket_ranks(cosine_I: Tensor, popularity_I: Tensor) -> Tensor:
    """rank_I, lower comes first: by cosine of item and path vector, then popularity, then lowest row (D3)."""
    order = popularity_I.sort(descending=True, stable=True).indices
    order = order[cosine_I[order].sort(descending=True, stable=True).indices]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _fill_relaxed(
    ranking: Ranking,
    short_b: Tensor,
    paths: Paths,
    index: ops.TokenIndex,
    rank_I: Tensor,
    exclude_BX: Tensor | None,
) -> None:
    """Put items that share most of a path's tokens into the open places of some users.

    Items that share more tokens come first, then items of better paths. If several paths match an item, the one that
    shares most tokens counts.
    Paper: path-to-item matching, ours, D11.
    """
    living_bW = paths.scores_BW[short_b] > -torch.inf
    user_P, row_P = living_bW.nonzero(as_tuple=True)
    tokens_PM = paths.tokens_BWM[short_b[user_P], row_P]
    decoded_b = (paths.tokens_BWM[short_b] >= 0).sum(2).amax(1)
    fewest_b = (decoded_b - (decoded_b // 3).clamp(min=1)).clamp(min=1)
    path_T, item_T, shared_T = index.items_sharing_tokens(tokens_PM, fewest_b[user_P])
    user_T = short_b[user_P[path_T]]
    ranked_bX = _not_to_rank(ranking, exclude_BX)[short_b]
    open_T = (~index.is_excluded(user_P[path_T], item_T, ranked_bX)).nonzero().squeeze(1)
    best_T = open_T[ops.lexsort(-shared_T[open_T])]
    (best_T,) = ops.first_of_each((user_T * len(rank_I) + item_T)[best_T], best_T)
    user_T, item_T, shared_T, row_T = user_T[best_T], item_T[best_T], shared_T[best_T], row_P[path_T[best_T]]
    scores_T = paths.scores_BW[user_T, row_T]
    order = ops.lexsort(rank_I[item_T], -scores_T, -shared_T, user_T)
    _append(ranking, user_T[order], item_T[order], scores_T[order], row_T[order], SOURCES.index("relaxed"))


def _users_at_once(paths: Paths, index: ops.TokenIndex) -> int:
    """How many users to process together, so that the lists of their paths have about LISTED_AT_ONCE items."""
    _, width, num_codebooks = paths.tokens_BWM.shape
    num_lists, offsets = num_codebooks, index.offsets
    if index.lists_pairs:
        num_lists, offsets = num_codebooks * (num_codebooks - 1) // 2, index.pair_offsets
    mean_length = 1 + len(index.codes_IM) * num_lists // (len(offsets) - 1)
    return max(1, LISTED_AT_ONCE // (width * num_lists * mean_length))


def _fill_by_tokens(
    ranking: Ranking,
    short_b: Tensor,
    paths: Paths,
    index: ops.TokenIndex,
    exclude_BX: Tensor | None,
    allowed_I: Tensor,
) -> None:
    """Fill the open places of some users with items whose tokens are most probable before the first step."""
    allowed = allowed_I.nonzero().squeeze(1)
    place_I = torch.full_like(allowed_I, -1, dtype=torch.int64)
    place_I[allowed] = torch.arange(len(allowed), device=allowed.device)
    ranked_bX = _not_to_rank(ranking, exclude_BX)[short_b]
    gone_bX = place_I[ranked_bX].masked_fill(ranked_bX < 0, -1)
    wanted = min(ranking.items_BN.shape[1], len(allowed))
    log_probs_bMK, codes = paths.first_log_probs_BMK[short_b], index.codes_IM[allowed]
    scores_bN, place_bN = ops.item_topk(log_probs_bMK, codes, wanted, gone_bX)
    row_T, column_T = (place_bN >= 0).nonzero(as_tuple=True)
    item_T, scores_T = allowed[place_bN[row_T, column_T]], scores_bN[row_T, column_T]
    _append(ranking, short_b[row_T], item_T, scores_T, torch.full_like(item_T, -1), SOURCES.index("tokens"))


def _not_to_rank(ranking: Ranking, exclude_BX: Tensor | None) -> Tensor:
    """The items that are excluded for a user or already ranked; -1 for none."""
    return ranking.items_BN if exclude_BX is None else torch.cat([exclude_BX, ranking.items_BN], dim=1)


def _with_open_places(ranking: Ranking) -> Tensor:
    """The users whose lists are not full yet."""
    return (ranking.items_BN < 0).any(1).nonzero().squeeze(1)


def _append(ranking: Ranking, user_T: Tensor, item_T: Tensor, scores_T: Tensor, row_T: Tensor, source: int) -> None:
    """Append items, sorted by user and best first, to the users' lists until the lists are full."""
    batch, num_items = ranking.items_BN.shape
    begin_B = torch.searchsorted(user_T, torch.arange(batch, device=user_T.device))
    filled_B = (ranking.items_BN >= 0).sum(1)
    place_T = torch.arange(len(user_T), device=user_T.device) + (filled_B - begin_B)[user_T]
    fits_T = place_T < num_items
    at = user_T[fits_T], place_T[fits_T]
    ranking.items_BN[at], ranking.scores_BN[at] = item_T[fits_T], scores_T[fits_T].to(ranking.scores_BN.dtype)
    ranking.path_BN[at], ranking.source_BN[at] = row_T[fits_T], source
