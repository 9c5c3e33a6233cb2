"""The index over existing items that constrains the search over unordered tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TokenIndex", "add_to_index", "build_index", "remove_from_index"]


class TokenIndex(NamedTuple):
    """Which items carry which tokens: a posting list of item rows for every token of every codebook.

    codes_IM: int32, the item's token in each codebook. offsets: int64 (M * K + 1,), the posting list of token
    (r, j) is `postings[offsets[r * K + j] : offsets[r * K + j + 1]]`, item rows ascending. postings: int32.
    counts_MK: int32, the length of every list.
    """

    codes_IM: Tensor
    offsets: Tensor
    postings: Tensor
    counts_MK: Tensor


def build_index(codes_IM: Tensor, codebook_size: int, items: Tensor | None = None) -> TokenIndex:
    """Index all items, or only the rows in `items` (distinct): the others can then never be reached.

    Raises ValueError for codes outside 0..codebook_size-1, the one place where their values are checked.
    """
    num_items, num_codebooks = codes_IM.shape
    if num_items and (int(codes_IM.min()) < 0 or int(codes_IM.max()) >= codebook_size):
        raise ValueError(
            f"codes_IM must lie in 0..{codebook_size - 1}, found {int(codes_IM.min())}..{int(codes_IM.max())}"
        )
    rows = torch.arange(num_items, device=codes_IM.device) if items is None else items.long().sort().values
    shift = torch.arange(num_codebooks, device=codes_IM.device) * codebook_size
    tokens_MI = (codes_IM[rows].long() + shift).T
    order = tokens_MI.reshape(-1).sort(stable=True).indices
    counts = torch.bincount(tokens_MI.reshape(-1), minlength=num_codebooks * codebook_size)
    offsets = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=codes_IM.device)
    offsets[1:] = counts.cumsum(0)
    postings = rows.repeat(num_codebooks)[order]
    return TokenIndex(
        codes_IM.int().contiguous(), offsets, postings.int(), counts.view(num_codebooks, codebook_size).int()
    )


def add_to_index(index: TokenIndex, codes_IM: Tensor, rows_N: Tensor) -> TokenIndex:
    """The index with the rows `rows_N` (distinct, not in it yet) of `codes_IM`, which begins with the index's codes.

    Merges in linear time what `build_index` would sort.
    """
    num_items = len(codes_IM)
    added = build_index(codes_IM[rows_N], index.counts_MK.shape[1])
    row_Y = rows_N[added.postings.long()]
    key_Y = (_slots(added) * num_items + row_Y).sort().values
    place_Y = torch.searchsorted(_slots(index) * num_items + index.postings, key_Y)
    is_added = torch.zeros(len(index.postings) + len(key_Y), dtype=torch.bool, device=key_Y.device)
    is_added[place_Y + torch.arange(len(key_Y), device=key_Y.device)] = True
    postings = torch.empty(len(is_added), dtype=torch.int32, device=key_Y.device)
    postings[is_added], postings[~is_added] = (key_Y % num_items).int(), index.postings
    offsets = index.offsets + added.offsets
    return TokenIndex(codes_IM.int().contiguous(), offsets, postings, index.counts_MK + added.counts_MK)


def remove_from_index(index: TokenIndex, rows_N: Tensor) -> TokenIndex:
    """The index without the rows `rows_N` (distinct), in linear time; their codes stay where they are."""
    is_removed_I = torch.zeros(len(index.codes_IM), dtype=torch.bool, device=rows_N.device)
    is_removed_I[rows_N] = True
    stays = ~is_removed_I[index.postings]
    lost = torch.bincount(_slots(index)[~stays], minlength=index.counts_MK.numel())
    offsets = index.offsets - torch.nn.functional.pad(lost.cumsum(0), (1, 0))
    return TokenIndex(
        index.codes_IM, offsets, index.postings[stays], index.counts_MK - lost.view_as(index.counts_MK).int()
    )


def _slots(index: TokenIndex) -> Tensor:
    """The token r * K + j of every posting."""
    return torch.repeat_interleave(index.counts_MK.flatten())
