"""Users cut at a random place: what they did before, and the next items, which MSRA rewards (D8, D9)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reg4rec import distributed
from reg4rec.data import Sequences

__all__ = ["Cut", "CutBatches"]


class Cut(NamedTuple):
    """B users: their `histories` before the cut, and the `futures` of up to F items after it, one at least."""

    histories: Sequences
    futures: Sequences


class CutBatches(Sequence[Cut]):
    """The batches of one epoch, the same for the same (seed, epoch): every user with two items and more, once.

    In a group of processes a batch is this one's share of it.

    The cut leaves one item or more on either side, uniformly. Futures come from the given sequences alone, so that a
    training part gives training items.
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
