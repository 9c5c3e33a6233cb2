"""Interaction sequences of many users, stored as two flat arrays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reg4rec.errors import InputError

__all__ = ["Sequences"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Item rows of B users, oldest first: user b has `items[offsets[b]:offsets[b + 1]]`.

    `offsets` is int64 (B + 1,), `items` is int32; a user may have no items.
    """

    offsets: Int64
    items: Int32

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]]) -> "Sequences":
        """Sequences of the given lists of item rows."""
        arrays = [np.asarray(list(row), dtype=np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        return cls(offsets, np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int32:
        """The item rows of one user (a view)."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} sequences")
        row %= len(self)
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64:
        """Number of interactions of each user, (B,)."""
        return np.diff(self.offsets)

    def last(self, n: int | Int64) -> "Sequences":
        """The newest `n` items of each sequence (one number for all, or one per user)."""
        if np.any(np.less(n, 0)):
            raise InputError(f"the history length is {np.min(n)}; it must be 0 or more")
        if np.ndim(n) == 0 and self.lengths.max(initial=0) <= n:
            return self
        kept = np.minimum(self.lengths, n)
        return self._pieces(self.offsets[1:] - kept, kept)

    def without_last(self, counts: int | Int64) -> "Sequences":
        """Each sequence without its newest `counts` items (one number for all, or one per user)."""
        kept = np.maximum(self.lengths - counts, 0)
        return self._pieces(self.offsets[:-1], kept)

    def take(self, rows: npt.ArrayLike) -> "Sequences":
        """The sequences of the given rows, in that order; rows may repeat."""
        chosen = np.asarray(rows, dtype=np.int64)
        return self._pieces(self.offsets[:-1][chosen], self.lengths[chosen])

    def batches(self, size: int) -> Iterator["Sequences"]:
        """Yield all sequences in order, at most `size` at a time."""
        if 0 < len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def owners(self) -> Int64:
        """The user row of every entry of `items`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def _pieces(self, starts: Int64, lengths: Int64) -> "Sequences":
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        flat = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(offsets, self.items[flat])
