"""Transitions: a baseline by counts of which item directly follows which."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reg4rec.baselines.item_to_item import ItemToItem, ages, weighted
from reg4rec.data import Dataset, Sequences
from reg4rec.evaluation import Popularity
from reg4rec.run import Run
from reg4rec.settings import check_settings, override

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Transitions", "TransitionsConfig"]


@dataclass(frozen=True)
class TransitionsConfig:
    """Settings of Transitions."""

    second_weight: float = 0.5
    """weight of the transitions from the second last item; those from the last item have weight 1"""
    part: Literal["train", "train+validation"] = "train"
    """part of the data in which transitions are counted"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("second_weight", 0 <= self.second_weight < np.inf, "0 or more"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
        )


@dataclass(frozen=True, eq=False)
class Transitions(ItemToItem):
    """Ranks items by how often they directly followed the last item of the history, and the one before it.

    The minimum that a sequential model must beat. Ties go by popularity, then by lowest row.
    """

    config: TransitionsConfig
    name = "transitions"

    @classmethod
    def fit(
        cls, dataset: Dataset, config: TransitionsConfig | None = None, run: Run = Run(), **overrides: Any
    ) -> "Transitions":
        """Count transitions in `config.part` of a dataset; `overrides` replace fields of `config`; ignores `run`."""
        from scipy.sparse import csr_array

        config = override(config or TransitionsConfig(), overrides)
        part, size = dataset.part(config.part), dataset.num_items
        owners = part.owners()
        follows_T = owners[1:] == owners[:-1]
        pairs = part.items[:-1][follows_T], part.items[1:][follows_T]
        counts_II = csr_array((np.ones(len(pairs[0])), pairs), shape=(size, size))
        return cls(counts_II, Popularity.fit(dataset, config.part).order_I, dataset.items, config.part, config)

    def history_weights(self, histories: Sequences) -> "csr_array":
        newest = histories.last(2)
        weight_T = np.where(ages(newest) == 0, 1.0, self.config.second_weight)
        return weighted(newest, weight_T, len(self.items))
