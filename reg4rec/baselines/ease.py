"""EASE: a linear item-to-item model with a closed-form solution (Steck 2019)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from reg4rec.baselines.item_to_item import ItemToItem, binary
from reg4rec.data import Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity
from reg4rec.run import Run, choose_device
from reg4rec.settings import check_settings, override

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Ease", "EaseConfig"]

MOST_ITEMS = 30_000
"""Larger catalogs would take too much memory for the matrix and too much time for its inverse."""


@dataclass(frozen=True)
class EaseConfig:
    """Settings of EASE."""

    regularization: float = 500.0
    """lambda, added to the diagonal of the item-item matrix of common users; larger values trust rare pairs less"""
    part: Literal["train", "train+validation"] = "train"
    """part of the data to fit"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("regularization", 0 < self.regularization < np.inf, "positive"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
        )


@dataclass(frozen=True, eq=False)
class Ease(ItemToItem):
    """Ranks items by the sum of their weights B over the distinct items of a history, regardless of order.

    B minimizes |X - X B|^2 + lambda |B|^2 with a zero diagonal, where X is the binary user-item matrix. B is dense:
    4 I^2 bytes in float32 for I items (0.6 GB for Beauty's 12,101), twice that during fitting. Ties go by popularity,
    then by lowest row.
    """

    config: EaseConfig
    name = "ease"

    @classmethod
    def fit(cls, dataset: Dataset, config: EaseConfig | None = None, run: Run = Run(), **overrides: Any) -> "Ease":
        """Fit the weights to `config.part` of a dataset on `run.device`; `overrides` replace fields of `config`.

        InputError for more than 30,000 items.
        """
        config = override(config or EaseConfig(), overrides)
        _check_size(dataset.num_items)
        taken_BI = binary(dataset.part(config.part), dataset.num_items)
        common_II = torch.from_numpy((taken_BI.T @ taken_BI).toarray()).to(choose_device(run.device))
        weights_II = _solution(common_II, config.regularization).cpu().numpy()
        return cls(weights_II, Popularity.fit(dataset, config.part).order_I, dataset.items, config.part, config)

    def history_weights(self, histories: Sequences) -> "csr_array":
        return binary(histories, len(self.items))


def _check_size(num_items: int) -> None:
    if num_items > MOST_ITEMS:
        size = 4 * num_items**2
        raise InputError(
            f"EASE for {num_items:,} items takes {size:,} bytes, and {2 * size:,} during fitting; the limit is "
            f"{MOST_ITEMS:,} items: use ItemKNN, which is sparse"
        )


def _solution(common_II: torch.Tensor, regularization: float) -> torch.Tensor:
    """B = I - P / diag(P), where P is the inverse of the regularized matrix; overwrites `common_II`."""
    common_II.diagonal().add_(regularization)
    torch.linalg.cholesky(common_II, out=common_II)
    inverse_II = torch.cholesky_inverse(common_II)
    inverse_II.div_(-inverse_II.diagonal().clone())
    inverse_II.fill_diagonal_(0)
    return inverse_II
