"""Lists of item rows by key, all in one tensor: how they are built, changed and read."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PostingLists"]


class PostingLists(NamedTuple):
    """List n is `postings[offsets[n] : offsets[n + 1]]`, item rows ascending; offsets int64, postings int32.

    Who asks for lists by number may ask for -1, which is empty.
    """

    offsets: Tensor
    postings: Tensor

    @classmethod
    def build(cls, keys: list[Tensor], num_keys: int, rows_N: Tensor) -> "PostingLists":
        """The lists of the rows by each of `keys` (N,) in turn, which lie in 0..num_keys-1."""
        postings = torch.empty(len(keys), len(rows_N), dtype=torch.int32, device=rows_N.device)
        lengths = [rows_N.new_zeros(1)]
        for key_N, list_N in zip(keys, postings, strict=True):
            list_N.copy_(rows_N[key_N.sort(stable=True).indices])
            lengths.append(torch.bincount(key_N, minlength=num_keys))
        return cls(torch.cat(lengths).cumsum(0), postings.flatten())

    def merged(self, added_offsets: Tensor, added_Y: Tensor) -> "PostingLists":
        """These lists with further rows: list n gets added_Y[added_offsets[n] : added_offsets[n + 1]], in any order."""
        offsets, postings = self
        num_rows = 1 + max(int(rows.max()) if len(rows) else 0 for rows in (postings, added_Y))
        slot_Y = torch.repeat_interleave(added_offsets.diff())
        key_Y = (slot_Y * num_rows + added_Y).sort().values
        slot_Y, row_Y = key_Y // num_rows, key_Y % num_rows
        place_Y = _lower_bound(postings, offsets[slot_Y], offsets[slot_Y + 1], row_Y)
        is_added = torch.zeros(len(postings) + len(key_Y), dtype=torch.bool, device=key_Y.device)
        is_added[place_Y + torch.arange(len(key_Y), device=key_Y.device)] = True
        merged = torch.empty(len(is_added), dtype=torch.int32, device=key_Y.device)
        merged[is_added], merged[~is_added] = row_Y.int(), postings
        return PostingLists(offsets + added_offsets, merged)

    def without(self, is_removed_I: Tensor) -> "PostingLists":
        """These lists without some rows."""
        is_lost = is_removed_I[self.postings]
        lost_Y = is_lost.nonzero().squeeze(1)
        return PostingLists(self.offsets - torch.searchsorted(lost_Y, self.offsets), self.postings[~is_lost])

    def lengths(self, slots: Tensor, missing: int) -> Tensor:
        """How many rows each of the lists `slots` has, `missing` for -1."""
        return (self.offsets[slots + 1] - self.offsets[slots]).masked_fill(slots < 0, missing)

    def rows(self, slot_N: Tensor) -> tuple[Tensor, Tensor]:
        """(place in slot_N, row) of all rows in these lists."""
        length_N = self.lengths(slot_N, 0)
        place_T = torch.repeat_interleave(length_N)
        begin_N = self.offsets[slot_N] - (length_N.cumsum(0) - length_N)
        return place_T, self.postings[torch.arange(len(place_T), device=slot_N.device) + begin_N[place_T]].long()

    def shortest(self, slots_NR: Tensor) -> tuple[Tensor, Tensor]:
        """(n, row) of all rows in the shortest of each N's lists, -1 aside."""
        shortest_N1 = self.lengths(slots_NR, 2**62).argmin(1, keepdim=True)
        return self.rows(slots_NR.gather(1, shortest_N1).squeeze(1))


def _lower_bound(postings: Tensor, first_Y: Tensor, last_Y: Tensor, row_Y: Tensor) -> Tensor:
    """The first place of each list first..last-1 whose row is not below, by bisection."""
    low_Y, high_Y = first_Y, last_Y
    for _ in range(int((last_Y - first_Y).max()).bit_length() if len(row_Y) else 0):
        middle_Y = (low_Y + high_Y) // 2
        below_Y = (low_Y < high_Y) & (postings[middle_Y.clamp(max=len(postings) - 1)] < row_Y)
        low_Y, high_Y = torch.where(below_Y, middle_Y + 1, low_Y), torch.where(below_Y, high_Y, middle_Y)
    return low_Y
