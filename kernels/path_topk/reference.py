"""The definition of `path_topk` in PyTorch."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..folding import exact_dot
from ..sorting import first_of_each, lexsort
from ..token_index import TokenIndex

__all__ = ["ItemScoring", "PathTopk", "empty_results", "path_topk_reference"]


SCORED_AT_ONCE = 1 << 16
"""Items scored at a time, which bounds the memory."""


class ItemScoring(NamedTuple):
    """An item's score for a user: the logits of its tokens + state . residual, + repeat_bias if it is repeated.

    repeated_BL: the rows of the items in the user's history, -1 for none.
    """

    logits_BMK: Tensor
    states_BD: Tensor
    residual_ID: Tensor
    repeated_BL: Tensor
    repeat_bias: Tensor


class PathTopk(NamedTuple):
    """A call of `path_topk`."""

    tokens_BWM: Tensor
    scores_BW: Tensor
    token_index: TokenIndex
    rank_I: Tensor
    k: int
    exclude_BX: Tensor | None = None
    scoring: ItemScoring | None = None


def empty_results(call: PathTopk) -> tuple[Tensor, Tensor, Tensor]:
    """(scores_BN, items_BN, path_BN), not yet written to"""
    rows, batch, k = call.tokens_BWM, call.tokens_BWM.shape[0], call.k
    return rows.new_empty(batch, k, dtype=torch.float32), rows.new_empty(batch, k), rows.new_empty(batch, k)


def path_topk_reference(call: PathTopk) -> tuple[Tensor, Tensor, Tensor]:
    """(scores_BN, items_BN, path_BN)"""
    tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring = call
    batch, device = len(tokens_BWM), rank_I.device
    user_P, row_P = (scores_BW > -torch.inf).nonzero(as_tuple=True)
    path_T, item_T = index.items_with_tokens(tokens_BWM[user_P, row_P])
    if exclude_BX is not None:
        keep_T = ~index.is_excluded(user_P[path_T], item_T, exclude_BX)
        path_T, item_T = path_T[keep_T], item_T[keep_T]
    order = lexsort(path_T, user_P[path_T] * len(rank_I) + item_T)  # the first path of an item comes first
    path_T, item_T = first_of_each((user_P[path_T] * len(rank_I) + item_T)[order], path_T[order], item_T[order])
    user_T, row_T = user_P[path_T], row_P[path_T]
    scores_T = scores_BW[user_T, row_T].double()
    if scoring is not None:
        scores_T = _own_scores(scoring, user_T, item_T, index)
    order = lexsort(item_T, rank_I[item_T], row_T, -scores_T, user_T)
    begin_B = torch.searchsorted(user_T[order], torch.arange(batch, device=device))
    place_T = torch.arange(len(order), device=device) - begin_B[user_T[order]]
    order, place_T = order[place_T < k], place_T[place_T < k]
    at = user_T[order], place_T
    items_BN = torch.full((batch, k), -1, device=device)
    path_BN, best_BN = items_BN.clone(), torch.full((batch, k), -torch.inf, dtype=torch.float32, device=device)
    items_BN[at], path_BN[at], best_BN[at] = item_T[order], row_T[order], scores_T[order].float()
    return best_BN, items_BN, path_BN


def _own_scores(scoring: ItemScoring, user_T: Tensor, item_T: Tensor, index: TokenIndex) -> Tensor:
    logits_BMK, states_BD, residual_ID, repeated_BL, repeat_bias = scoring
    codebooks = torch.arange(logits_BMK.shape[1], device=user_T.device)
    shared_TM = logits_BMK[user_T[:, None], codebooks, index.codes_IM[item_T].long()].double()
    shared_T = sum(shared_TM.unbind(1), shared_TM.new_zeros(len(item_T)))
    own_T = torch.cat(
        [
            exact_dot(states_BD[user_t], residual_ID[item_t])
            for user_t, item_t in zip(user_T.split(SCORED_AT_ONCE), item_T.split(SCORED_AT_ONCE), strict=True)
        ]
    )
    is_repeated_T = index.is_excluded(user_T, item_T, repeated_BL)
    return shared_T + own_T + torch.where(is_repeated_T, repeat_bias.double(), 0)
