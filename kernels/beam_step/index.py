"""The index over existing items that constrains the search over unordered tokens."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import bind

__all__ = [
    "TokenIndex",
    "add_to_index",
    "bind_index",
    "build_index",
    "listed_items",
    "pair_slot",
    "remove_from_index",
    "restored_index",
    "stored_index",
]

MOST_PAIRED = 8
"""Codebooks up to which pairs are listed: they take 2 M (M - 1) bytes an item."""


class TokenIndex(NamedTuple):
    """Which items carry which tokens: a posting list of item rows for every token, in large catalogs for every pair.

    codes_IM: int32, the item's token in each codebook. offsets: int64 (M * K + 1,), the posting list of token
    (r, j) is `postings[offsets[r * K + j] : offsets[r * K + j + 1]]`, item rows ascending. postings: int32.
    counts_MK: int32, the length of every list. pair_offsets: int64 (M (M - 1) / 2 * K * K + 1,), pair_postings: int32,
    the same for two tokens (`pair_slot`); both empty where pairs are not listed.
    """

    codes_IM: Tensor
    offsets: Tensor
    postings: Tensor
    counts_MK: Tensor
    pair_offsets: Tensor
    pair_postings: Tensor

    @property
    def lists_pairs(self) -> bool:
        return len(self.pair_offsets) > 0


def bind_index(op: str, index: TokenIndex, sizes: dict[str, int], device: torch.device) -> None:
    """`checks.bind` of an op's index; values were checked when it was built."""
    offsets = {"index.offsets_Z": index.offsets, "index.pair_offsets_R": index.pair_offsets}
    bind(op, {}, offsets, integer_dtypes=(torch.int64,), sizes=sizes, device=device)
    lists = {"index.codes_IM": index.codes_IM, "index.counts_MK": index.counts_MK, "index.postings_Y": index.postings}
    lists |= {"index.pair_postings_V": index.pair_postings}
    bind(op, {}, lists, integer_dtypes=(torch.int32,), sizes=sizes, device=device)


def pair_slot(num_codebooks: int, codebook_size: int, r: int, s: int) -> int:
    """Where the lists of codebooks r < s begin: that of tokens (r, i) and (s, j) is i * K + j places behind."""
    return (r * (2 * num_codebooks - r - 1) // 2 + s - r - 1) * codebook_size**2


def build_index(
    codes_IM: Tensor, codebook_size: int, items: Tensor | None = None, pairs: bool | None = None
) -> TokenIndex:
    """Index all items, or only the rows in `items` (distinct): the others can then never be reached.

    `pairs` lists pairs of tokens too; None decides by size: where their lists hold an item on average, for up to 8
    codebooks. Raises ValueError for codes outside 0..codebook_size-1, the one place where their values are checked.
    """
    num_items, num_codebooks = codes_IM.shape
    if num_items and (int(codes_IM.min()) < 0 or int(codes_IM.max()) >= codebook_size):
        raise ValueError(
            f"codes_IM must lie in 0..{codebook_size - 1}, found {int(codes_IM.min())}..{int(codes_IM.max())}"
        )
    rows = torch.arange(num_items, device=codes_IM.device) if items is None else items.long().sort().values
    if pairs is None:
        pairs = num_codebooks <= MOST_PAIRED and len(rows) >= codebook_size**2
    codes_MN = codes_IM[rows].int().T.contiguous()
    offsets, postings = _listed(list(codes_MN), codebook_size, rows)
    keys = [codes_MN[r] * codebook_size + codes_MN[s] for r, s in combinations(range(num_codebooks), 2)]
    pair_offsets, pair_postings = (
        _listed(keys, codebook_size**2, rows) if pairs and keys else (offsets[:0], postings[:0])
    )
    return TokenIndex(
        codes_IM.int().contiguous(), offsets, postings, _lengths(offsets, codebook_size), pair_offsets, pair_postings
    )


def _listed(keys: list[Tensor], num_keys: int, rows_N: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and postings of the lists by each of `keys` (N,) in turn, which lie in 0..num_keys-1."""
    postings = torch.empty(len(keys), len(rows_N), dtype=torch.int32, device=rows_N.device)
    lengths = [rows_N.new_zeros(1)]
    for key_N, list_N in zip(keys, postings, strict=True):
        list_N.copy_(rows_N[key_N.sort(stable=True).indices])
        lengths.append(torch.bincount(key_N, minlength=num_keys))
    return torch.cat(lengths).cumsum(0), postings.flatten()


def _lengths(offsets: Tensor, codebook_size: int) -> Tensor:
    """counts_MK"""
    return offsets.diff().int().view(-1, codebook_size)


def add_to_index(index: TokenIndex, codes_IM: Tensor, rows_N: Tensor) -> TokenIndex:
    """The index with the rows `rows_N` (distinct, not in it yet) of `codes_IM`, which begins with the index's codes.

    Merges in linear time what `build_index` would sort; pairs stay listed or not, as they are.
    """
    size = index.counts_MK.shape[1]
    added = build_index(codes_IM[rows_N], size, pairs=index.lists_pairs)
    offsets, postings = _merged(index.offsets, index.postings, added.offsets, rows_N[added.postings.long()])
    pairs = _merged(index.pair_offsets, index.pair_postings, added.pair_offsets, rows_N[added.pair_postings.long()])
    return TokenIndex(codes_IM.int().contiguous(), offsets, postings, _lengths(offsets, size), *pairs)


def _merged(offsets: Tensor, postings: Tensor, added_offsets: Tensor, added_Y: Tensor) -> tuple[Tensor, Tensor]:
    """Lists with further postings, each list's rows ascending."""
    num_rows = 1 + max(int(rows.max()) if len(rows) else 0 for rows in (postings, added_Y))
    slot_Y = torch.repeat_interleave(added_offsets.diff())
    key_Y = (slot_Y * num_rows + added_Y).sort().values
    slot_Y, row_Y = key_Y // num_rows, key_Y % num_rows
    place_Y = _lower_bound(postings, offsets[slot_Y], offsets[slot_Y + 1], row_Y)
    is_added = torch.zeros(len(postings) + len(key_Y), dtype=torch.bool, device=key_Y.device)
    is_added[place_Y + torch.arange(len(key_Y), device=key_Y.device)] = True
    merged = torch.empty(len(is_added), dtype=torch.int32, device=key_Y.device)
    merged[is_added], merged[~is_added] = row_Y.int(), postings
    return offsets + added_offsets, merged


def _lower_bound(postings: Tensor, first_Y: Tensor, last_Y: Tensor, row_Y: Tensor) -> Tensor:
    """The first place of each list first..last-1 whose row is not below, by bisection."""
    low_Y, high_Y = first_Y, last_Y
    for _ in range(int((last_Y - first_Y).max()).bit_length() if len(row_Y) else 0):
        middle_Y = (low_Y + high_Y) // 2
        below_Y = (low_Y < high_Y) & (postings[middle_Y.clamp(max=len(postings) - 1)] < row_Y)
        low_Y, high_Y = torch.where(below_Y, middle_Y + 1, low_Y), torch.where(below_Y, high_Y, middle_Y)
    return low_Y


def remove_from_index(index: TokenIndex, rows_N: Tensor) -> TokenIndex:
    """The index without the rows `rows_N` (distinct), in linear time; their codes stay where they are."""
    is_removed_I = torch.zeros(len(index.codes_IM), dtype=torch.bool, device=rows_N.device)
    is_removed_I[rows_N] = True
    offsets, postings = _without(index.offsets, index.postings, is_removed_I)
    pairs = _without(index.pair_offsets, index.pair_postings, is_removed_I)
    return TokenIndex(index.codes_IM, offsets, postings, _lengths(offsets, index.counts_MK.shape[1]), *pairs)


def _without(offsets: Tensor, postings: Tensor, is_removed_I: Tensor) -> tuple[Tensor, Tensor]:
    is_lost = is_removed_I[postings]
    lost_Y = is_lost.nonzero().squeeze(1)
    return offsets - torch.searchsorted(lost_Y, offsets), postings[~is_lost]


def listed_items(index: TokenIndex) -> Tensor:
    """Which items the index lists (I,)."""
    rows = index.postings[: index.offsets[index.counts_MK.shape[1]]]  # every item has one token of the first codebook
    return torch.zeros(len(index.codes_IM), dtype=torch.bool, device=rows.device).index_fill_(0, rows.long(), True)


LISTS = ("offsets", "postings", "pair_offsets", "pair_postings")


def stored_index(index: TokenIndex) -> dict[str, Tensor]:
    """What `restored_index` needs beside the codes."""
    return {name: getattr(index, name) for name in LISTS}


def restored_index(stored: dict[str, Tensor], codes_IM: Tensor, codebook_size: int, num_items: int) -> TokenIndex:
    """The index of `num_items` of the items; KeyError or ValueError where the lists cannot be theirs."""
    num_codebooks = codes_IM.shape[1]
    num_pairs = num_codebooks * (num_codebooks - 1) // 2
    offsets, postings, pair_offsets, pair_postings = (stored[name] for name in LISTS)
    sizes = {
        "offsets": (num_codebooks * codebook_size + 1, len(offsets)),
        "postings": (num_codebooks * num_items, len(postings)),
        "pair_offsets": (num_pairs * codebook_size**2 + 1, len(pair_offsets)),
        "pair_postings": (num_pairs * num_items, len(pair_postings)),
        "last offset": (len(postings), int(offsets[-1])),
        "last pair_offset": (len(pair_postings), int(pair_offsets[-1])),
    }
    for name, (expected, found) in sizes.items():
        if expected != found:
            raise ValueError(f"{name}: {expected} expected, {found} found")
    for begins, rows in ((offsets, postings), (pair_offsets, pair_postings)):
        if int(begins[0]) != 0 or bool((begins.diff() < 0).any()):
            raise ValueError("offsets must rise from 0")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(codes_IM):
            raise ValueError(f"rows must lie in 0..{len(codes_IM) - 1}")
    if codes_IM.min() < 0 or codes_IM.max() >= codebook_size:
        raise ValueError(f"codes must lie in 0..{codebook_size - 1}")
    counts_MK = _lengths(offsets, codebook_size)
    return TokenIndex(codes_IM.int().contiguous(), offsets, postings, counts_MK, pair_offsets, pair_postings)
