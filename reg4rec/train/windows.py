"""Training windows: pieces of user sequences, batched by length; every item of a window is a target."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg4rec.data import Dataset, Sequences
from reg4rec.data.dataset import PartName
from reg4rec.errors import InputError

__all__ = ["Batch", "WindowBatches", "target_weights"]

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Item rows (B, L), padded at the end with -1: each item is a target, the items before it are its history.

    weight_BL multiplies the losses of targets; without weights all targets count the same.
    """

    items_BL: Tensor
    weight_BL: Tensor | None = None


class WindowBatches(Sequence[Batch]):
    """The batches of one epoch; equal (seed, epoch) give equal batches.

    A sequence longer than `window` is cut into pieces at a random phase, so that over the epochs its items are
    predicted from histories of every length. Windows of similar length share a batch of at most `batch_targets`
    padded positions (at least one window); batches come in random order. An epoch covers every item once. `weights` of
    the sequences' items (`target_weights`) are put into the batches; the windows do not depend on them.
    """

    def __init__(
        self,
        sequences: Sequences,
        window: int,
        batch_targets: int,
        seed: int,
        epoch: int,
        weights: Float32 | None = None,
    ):
        self.sequences, self.weights = sequences, weights
        draw = np.random.default_rng((seed, epoch))
        self.start_X, self.length_X = cut_windows(sequences, window, draw)
        # a little noise on the length mixes users, or batches would have the same users in every epoch
        order = np.argsort(self.length_X + draw.random(len(self.length_X)), kind="stable")
        self.groups = group_by_size(self.length_X[order], order, batch_targets)
        draw.shuffle(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, i: int) -> Batch:  # type: ignore[override]
        rows = self.groups[i]
        start, length = self.start_X[rows], self.length_X[rows]
        column = np.arange(length.max())
        filled = column < length[:, None]
        place = np.where(filled, start[:, None] + column, 0)
        items = torch.from_numpy(np.where(filled, self.sequences.items[place], -1).astype(np.int64))
        return Batch(items, None if self.weights is None else torch.from_numpy(self.weights[place] * filled))


def target_weights(data: Dataset, name: PartName) -> Float32 | None:
    """The weight of each interaction of a part as a target, 1 on average; None if the data has no kinds of events.

    With mean 1, the mean of weighted losses over a batch is an unbiased estimate of the weighted mean over the part,
    however the kinds are spread over batches and processes. InputError if all weights of the part are 0.
    """
    if data.kinds is None:
        return None
    part = data.part(name)
    place = np.repeat(data.sequences.offsets[:-1] - part.offsets[:-1], part.lengths) + np.arange(len(part.items))
    weights = data.kinds.of_interactions[place]
    if not weights.any():
        raise InputError(
            f"no interaction of {name} has a weight above 0, so there is no target; the weights are "
            f"{data.kinds.weights}; raise one, or add more data"
        )
    return (weights / weights.mean(dtype=np.float64)).astype(np.float32)


def cut_windows(sequences: Sequences, window: int, draw: np.random.Generator) -> tuple[Int64, Int64]:
    """Start (in `sequences.items`) and length of every window; a long sequence's first window has a random length."""
    lengths = sequences.lengths
    phase = np.where(lengths > window, draw.integers(1, window + 1, size=len(lengths)), window)
    phase = np.minimum(phase, lengths)
    pieces = (lengths > 0) + np.maximum(0, -(-(lengths - phase) // window))
    owner = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = np.where(number > 0, phase[owner] + (number - 1) * window, 0)
    end = np.minimum(phase[owner] + number * window, lengths[owner])
    return sequences.offsets[owner] + begin, end - begin


def group_by_size(sorted_lengths: Int64, rows: Int64, batch_targets: int) -> list[Int64]:
    """Cut rows, sorted by length, into groups whose padded size is at most `batch_targets`."""
    groups, first = [], 0
    while first < len(rows):
        # the longest row of a group is its last: size (i - first + 1) * length[i] grows with i
        last = first + 1
        while last < len(rows) and (last + 1 - first) * sorted_lengths[last] <= batch_targets:
            last += 1
        groups.append(rows[first:last])
        first = last
    return groups
