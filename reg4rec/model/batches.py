"""Histories of several users as tensors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reg4rec.data import Sequences

__all__ = ["Batch", "padded"]


class Batch(NamedTuple):
    """Input of the encoder and the search for B users.

    item_BL: item rows, oldest first; rows after the first length_B are padding. exclude_BX: rows that the search must
    not reach, padded with -1.
    """

    item_BL: Tensor
    length_B: Tensor
    exclude_BX: Tensor | None

    @classmethod
    def of(cls, histories: Sequences, max_history: int, exclude_BX: Tensor | None = None) -> "Batch":
        """The batch of the newest `max_history` items of each history."""
        newest = histories.last(max_history)
        return cls(padded(newest, 0), torch.from_numpy(newest.lengths), exclude_BX)

    def to(self, device: torch.device) -> "Batch":
        return self.mapped(lambda tensor: tensor.to(device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        exclude_BX = None if self.exclude_BX is None else change(self.exclude_BX)
        return Batch(change(self.item_BL), change(self.length_B), exclude_BX)


def padded(sequences: Sequences, fill: int) -> Tensor:
    """Item rows (B, L), int64, oldest first; shorter sequences end in `fill`."""
    lengths = sequences.lengths
    length = int(lengths.max(initial=0))
    if len(lengths) and lengths.min() == length:
        return torch.from_numpy(sequences.items.astype(np.int64).reshape(len(lengths), length))
    filled = np.arange(length) < lengths[:, None]
    rows_BL = np.full(filled.shape, fill, dtype=np.int64)
    rows_BL[filled] = sequences.items
    return torch.from_numpy(rows_BL)
