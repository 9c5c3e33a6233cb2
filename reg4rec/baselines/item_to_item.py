"""Base class of baselines that score items by an item-item matrix, summed over the items of the history."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from reg4rec.data import ItemCatalog, Sequences

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ItemToItem", "ages", "binary", "weighted"]

USERS_AT_ONCE = 256
"""Number of users with scores of all items in memory."""

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ItemToItem(ABC):
    """Ranks items by the weights of the history's items times `matrix_II`; row i has the scores that item i gives.

    Ties go by popularity in the training part, then by lowest row; `order_I` has all rows in that order. So items
    without a score, and all items for an empty history, are ranked as by `Popularity`.
    """

    matrix_II: Any
    order_I: Int32
    items: ItemCatalog
    trained_on: str
    name: ClassVar[str]

    @abstractmethod
    def history_weights(self, histories: Sequences) -> "csr_array":
        """(B, I), sparse: the weight of each item of a history."""

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """Item rows (B, k), best first, padded with -1; `filter_seen` leaves out items of the history."""
        ranked = [np.empty((0, k), dtype=np.int32)]
        for batch in histories.batches(USERS_AT_ONCE):
            scores = self.history_weights(batch) @ self.matrix_II
            scores_BI = scores if isinstance(scores, np.ndarray) else scores.toarray()
            if filter_seen:
                scores_BI[batch.owners(), batch.items] = -np.inf
            ranked.append(_best(scores_BI[:, self.order_I], self.order_I, k))
        return np.concatenate(ranked)


def ages(histories: Sequences) -> npt.NDArray[np.int64]:
    """For each entry of `histories.items`, the number of newer items in its history."""
    return np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.items))


def weighted(histories: Sequences, weight_T: npt.NDArray[Any], num_items: int) -> "csr_array":
    """(B, I), sparse: for each item, the sum of the weights of its entries in `histories.items`."""
    from scipy.sparse import csr_array

    shape = (len(histories), num_items)
    return csr_array((weight_T, (histories.owners(), histories.items)), shape=shape)


def binary(histories: Sequences, num_items: int) -> "csr_array":
    """(B, I), sparse, float32: 1 if the history contains the item."""
    matrix_BI = weighted(histories, np.ones(len(histories.items), dtype=np.float32), num_items)
    matrix_BI.data[:] = 1
    return matrix_BI


def _best(scores_BI: npt.NDArray[Any], row_I: Int32, k: int) -> Int32:
    """(B, k): the best columns as item rows `row_I`, best first, ties by column; -inf is excluded."""
    ranked_BN = np.full((len(scores_BI), k), -1, dtype=np.int32)
    lowest_B = torch.from_numpy(scores_BI).topk(min(k, len(row_I)), sorted=False).values.amin(1).numpy()
    for ranked_N, scores_I, lowest in zip(ranked_BN, scores_BI, lowest_B, strict=True):
        (above,) = np.nonzero(scores_I > lowest)
        # many scores may be 0 and need no sorting
        equal = np.nonzero(scores_I == lowest)[0][: k - len(above)] if lowest > -np.inf else above[:0]
        best = np.concatenate([above[np.argsort(-scores_I[above], kind="stable")], equal])
        ranked_N[: len(best)] = row_I[best]
    return ranked_BN
