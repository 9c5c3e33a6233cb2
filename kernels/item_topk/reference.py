"""The definition of `item_topk` in PyTorch."""

from typing import NamedTuple

import torch

__all__ = ["ItemTopk", "empty_results", "item_topk_reference"]

_TILE = 1 << 22
"""Scores held at a time, users times items of a tile, whatever I is."""

_LOW = (1 << 32) - 1
_NO_ITEM = torch.iinfo(torch.int64).min


class ItemTopk(NamedTuple):
    """A call of `item_topk`."""

    log_probs_BMK: torch.Tensor
    ids_IM: torch.Tensor
    k: int
    exclude_BX: torch.Tensor | None = None


def empty_results(call: ItemTopk) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores_BN, items_BN), not yet written to"""
    like, batch, k = call.log_probs_BMK, call.log_probs_BMK.shape[0], call.k
    return like.new_empty(batch, k, dtype=torch.float32), like.new_empty(batch, k, dtype=torch.int64)


def item_topk_reference(call: ItemTopk) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores_BN, items_BN)"""
    log_probs_BMK, ids_IM, k, exclude_BX = call
    num_users, num_items = len(log_probs_BMK), len(ids_IM)
    log_probs_MBK = log_probs_BMK.float().transpose(0, 1)
    best_BN = torch.full((num_users, k), _NO_ITEM, dtype=torch.int64, device=log_probs_BMK.device)
    step = max(1, _TILE // max(1, num_users))
    for start in range(0, num_items, step):
        ids_Mi = ids_IM[start : start + step].T.long()
        keys_Bi = _keys(_scores(log_probs_MBK, ids_Mi), start)
        if exclude_BX is not None:
            _drop(keys_Bi, exclude_BX.long() - start)
        best_BN = torch.cat([best_BN, keys_Bi], dim=1).topk(k, dim=1).values
    return _unpack(best_BN)


def _scores(log_probs_MBK: torch.Tensor, ids_Mi: torch.Tensor) -> torch.Tensor:
    """Sums in the order of the codebooks; they start at 0, since a sum of -0.0 would sort below 0.0 by its bits."""
    scores_Bi = log_probs_MBK.new_zeros(log_probs_MBK.shape[1], ids_Mi.shape[1])
    for log_probs_BK, id_i in zip(log_probs_MBK, ids_Mi, strict=True):
        scores_Bi += log_probs_BK.index_select(1, id_i)
    return scores_Bi


def _keys(scores_Bi: torch.Tensor, start: int) -> torch.Tensor:
    """One int64 per item that sorts by score, then by lowest item; the lowest key means a score of -inf or NaN.

    Floats sort as their bits do, once the lower bits of negative ones are flipped.
    """
    bits_Bi = scores_Bi.view(torch.int32).long()
    ordered_Bi = torch.where(bits_Bi < 0, bits_Bi ^ 0x7FFFFFFF, bits_Bi)
    item_i = torch.arange(start, start + scores_Bi.shape[1], device=scores_Bi.device)
    return torch.where(scores_Bi > -torch.inf, (ordered_Bi << 32) | (_LOW - item_i), _NO_ITEM)


def _drop(keys_Bi: torch.Tensor, column_BX: torch.Tensor) -> None:
    user_T, slot_T = ((column_BX >= 0) & (column_BX < keys_Bi.shape[1])).nonzero(as_tuple=True)
    keys_Bi[user_T, column_BX[user_T, slot_T]] = _NO_ITEM


def _unpack(best_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    there_BN = best_BN != _NO_ITEM
    ordered_BN = best_BN >> 32
    bits_BN = torch.where(ordered_BN < 0, ordered_BN ^ 0x7FFFFFFF, ordered_BN)
    scores_BN = bits_BN.int().view(torch.float32)
    return scores_BN.masked_fill(~there_BN, -torch.inf), torch.where(there_BN, _LOW - (best_BN & _LOW), -1)
