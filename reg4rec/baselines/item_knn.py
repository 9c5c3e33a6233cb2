"""ItemKNN: nearest-neighbor recommendation by the cosine of items' users (Sarwar et al. 2001)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reg4rec.baselines.item_to_item import ItemToItem, ages, binary, weighted
from reg4rec.data import Dataset, Sequences
from reg4rec.evaluation import Popularity
from reg4rec.run import Run
from reg4rec.settings import check_settings, override

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ItemKNN", "ItemKNNConfig"]


@dataclass(frozen=True)
class ItemKNNConfig:
    """Settings of ItemKNN."""

    neighbors: int = 200
    """number of nearest items kept for each item, ties by lowest row"""
    shrink: float = 20.0
    """added to the denominator of the cosine, which lowers the similarity of items with few users"""
    decay: float = 0.8
    """weight of an item of the history relative to the next newer one; 1 gives all the same weight"""
    part: Literal["train", "train+validation"] = "train"
    """part of the data from which similarities are computed"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("neighbors", self.neighbors >= 1, "1 or more"),
            ("shrink", 0 <= self.shrink < np.inf, "0 or more"),
            ("decay", 0 < self.decay <= 1, "above 0 and up to 1"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
        )


@dataclass(frozen=True, eq=False)
class ItemKNN(ItemToItem):
    """Ranks items by their similarity to the items of the history, with a larger weight for newer ones.

    The similarity is the cosine of columns of the binary user-item matrix, with `config.shrink` added to its
    denominator. Repeated items of a history count repeatedly. Ties go by popularity, then by lowest row.
    """

    config: ItemKNNConfig
    name = "item-knn"

    @classmethod
    def fit(
        cls, dataset: Dataset, config: ItemKNNConfig | None = None, run: Run = Run(), **overrides: Any
    ) -> "ItemKNN":
        """Fit the similarities to `config.part` of a dataset; `overrides` replace fields of `config`; ignores `run`."""
        config = override(config or ItemKNNConfig(), overrides)
        near_II = _nearest(binary(dataset.part(config.part), dataset.num_items), config)
        return cls(near_II, Popularity.fit(dataset, config.part).order_I, dataset.items, config.part, config)

    def history_weights(self, histories: Sequences) -> "csr_array":
        return weighted(histories, self.config.decay ** ages(histories), len(self.items))


def _nearest(taken_BI: "csr_array", config: ItemKNNConfig) -> "csr_array":
    """(I, I), sparse: each row has the similarities of an item to its nearest items."""
    from scipy.sparse import coo_array, csr_array

    both = coo_array(taken_BI.T @ taken_BI)
    norm_I = np.sqrt(both.diagonal().astype(np.float64))
    other_T = both.row != both.col
    row_T, column_T = both.row[other_T], both.col[other_T]
    near_T = both.data[other_T] / (norm_I[row_T] * norm_I[column_T] + config.shrink)
    order_T = np.lexsort((column_T, -near_T, row_T))
    row_T, column_T, near_T = row_T[order_T], column_T[order_T], near_T[order_T]
    kept_T = np.arange(len(row_T)) - np.searchsorted(row_T, row_T) < config.neighbors
    return csr_array((near_T[kept_T], (row_T[kept_T], column_T[kept_T])), shape=both.shape)
