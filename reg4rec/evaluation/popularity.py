"""Popularity: recommends the most frequent items to all users."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from reg4rec.data import Dataset, Sequences

__all__ = ["Popularity"]

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Popularity:
    """Ranks by the number of training interactions, ties by lowest row; `order_I` has all item rows, best first."""

    order_I: Int32
    trained_on: str
    name = "popularity"

    @classmethod
    def fit(cls, dataset: Dataset, part: Literal["train", "train+validation"] = "train") -> "Popularity":
        """Count the interactions in a part of the dataset."""
        return cls(np.argsort(-dataset.item_counts(part), kind="stable").astype(np.int32), part)

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """Item rows (B, k), best first, padded with -1; `filter_seen` leaves out items of the history."""
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        if not filter_seen:
            ranked_BN[:, : len(self.order_I)] = self.order_I[:k]
            return ranked_BN
        for row in range(len(histories)):
            seen = histories[row]
            candidates = self.order_I[: k + len(seen)]
            kept = candidates[~np.isin(candidates, seen)][:k]
            ranked_BN[row, : len(kept)] = kept
        return ranked_BN
