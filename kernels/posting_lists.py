"""Lists of item rows by key, all in one tensor: how they are built, changed and read."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PostingLists"]


class PostingLists(NamedTuple):
    """List n is `postings[offsets[n] : offsets[n + 1]]`, item rows ascending; offsets int64, postings int32.

    Methods that take list numbers read -1 as an empty list.
    """

    offsets: Tensor
    postings: Tensor

    @classmethod
    def build(cls, keys: list[Tensor], num_keys: int, rows_T: Tensor) -> "PostingLists":
        """For each tensor of `keys` in turn, num_keys lists: row rows_T[t] is in list key[t], 0..num_keys-1."""
        postings = torch.empty(len(keys), len(rows_T), dtype=torch.int32, device=rows_T.device)
        lengths = [rows_T.new_zeros(1)]
        for key_T, list_T in zip(keys, postings, strict=True):
            list_T.copy_(rows_T[key_T.sort(stable=True).indices])
            lengths.append(torch.bincount(key_T, minlength=num_keys))
        return cls(torch.cat(lengths).cumsum(0), postings.flatten())

    def merged(self, added_offsets: Tensor, added_T: Tensor) -> "PostingLists":
        """These lists with further rows: list n gets added_T[added_offsets[n] : added_offsets[n + 1]], in any order."""
        offsets, postings = self
        num_rows = 1 + max(int(rows.max()) if len(rows) else 0 for rows in (postings, added_T))
        slot_T = torch.repeat_interleave(added_offsets.diff())
        key_T = (slot_T * num_rows + added_T).sort().values
        slot_T, row_T = key_T // num_rows, key_T % num_rows
        place_T = _lower_bound(postings, offsets[slot_T], offsets[slot_T + 1], row_T)
        is_added = torch.zeros(len(postings) + len(key_T), dtype=torch.bool, device=key_T.device)
        is_added[place_T + torch.arange(len(key_T), device=key_T.device)] = True
        merged = torch.empty(len(is_added), dtype=torch.int32, device=key_T.device)
        merged[is_added], merged[~is_added] = row_T.int(), postings
        return PostingLists(offsets + added_offsets, merged)

    def without(self, is_removed_I: Tensor) -> "PostingLists":
        """These lists without the rows marked in is_removed_I."""
        is_lost = is_removed_I[self.postings]
        lost_T = is_lost.nonzero().squeeze(1)
        return PostingLists(self.offsets - torch.searchsorted(lost_T, self.offsets), self.postings[~is_lost])

    def lengths(self, slots: Tensor, missing: int) -> Tensor:
        """How many rows each of the lists `slots` has, `missing` for -1."""
        return (self.offsets[slots + 1] - self.offsets[slots]).masked_fill(slots < 0, missing)

    def rows(self, slot_X: Tensor) -> tuple[Tensor, Tensor]:
        """(place in slot_X, row) for every row of the lists slot_X."""
        length_X = self.lengths(slot_X, 0)
        place_T = torch.repeat_interleave(length_X)
        begin_X = self.offsets[slot_X] - (length_X.cumsum(0) - length_X)
        return place_T, self.postings[torch.arange(len(place_T), device=slot_X.device) + begin_X[place_T]].long()

    def shortest(self, slots_TX: Tensor) -> tuple[Tensor, Tensor]:
        """(t, row) for every row of the shortest list in slots_TX[t]; lists -1 do not count."""
        shortest_T1 = self.lengths(slots_TX, 2**62).argmin(1, keepdim=True)
        return self.rows(slots_TX.gather(1, shortest_T1).squeeze(1))


def _lower_bound(postings: Tensor, first_T: Tensor, last_T: Tensor, row_T: Tensor) -> Tensor:
    """The first place in each list first..last-1 whose row is not below row_T, else last; by bisection."""
    low_T, high_T = first_T, last_T
    for _ in range(int((last_T - first_T).max()).bit_length() if len(row_T) else 0):
        middle_T = (low_T + high_T) // 2
        below_T = (low_T < high_T) & (postings[middle_T.clamp(max=len(postings) - 1)] < row_T)
        low_T, high_T = torch.where(below_T, middle_T + 1, low_T), torch.where(below_T, high_T, middle_T)
    return low_T
