"""The index over existing items that constrains the search over unordered tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TokenIndex", "build_index"]


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
