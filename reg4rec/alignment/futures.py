"""Histories cut at a random place into a past and the next items, which MSRA rewards (D8, D9)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reg4rec import distributed
from reg4rec.data import Sequences

__all__ = ["Cut", "CutBatches"]


class Cut(NamedTuple):
    """B users: their `histories` before the cut, and the next 1 to F items after it (`futures`)."""

    histories: Sequences
    futures: Sequences


class CutBatches(Sequence[Cut]):
    """The batches of one epoch: every user with at least two items, once. Equal (seed, epoch) give equal batches.

    In a group of processes, each process gets its share of a batch. The cut is uniform over the places that leave an
    item on either side. Futures come only from `sequences`: pass the training part to get training items only.
    """

    def __init__(self, sequences: Sequences, window: int, batch_users: int, seed: int, epoch: int):
        draw = np.random.default_rng((seed, epoch))
        users = np.flatnonzero(sequences.lengths >= 2)
        self.sequences, self.window, self.batch_users = sequences.take(draw.permutation(users)), window, batch_users
        self.cut_B = draw.integers(1, self.sequences.lengths)

    def __len__(self) -> int:
        return -(-len(self.sequences) // self.batch_users)

    def __getitem__(self, i: int) -> Cut:  # type: ignore[override]
        rows = np.arange(len(self.sequences))[i * self.batch_users : (i + 1) * self.batch_users][distributed.share()]
        whole, cut_B = self.sequences.take(rows), self.cut_B[rows]
        after_B = whole.lengths - cut_B
        futures = whole.last(after_B).without_last(np.maximum(0, after_B - self.window))
        return Cut(whole.without_last(after_B), futures)
