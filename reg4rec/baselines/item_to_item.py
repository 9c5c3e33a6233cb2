"""What baselines share that score an item by a matrix of items: a sum over the items of the history."""

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
"""Users whose scores of all items are held together."""

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ItemToItem(ABC):
    """Ranks by the weights of a history's items times `matrix_II`, whose row i says what item i speaks for.

    Equal scores go by popularity in the training part, then by lowest row; `order_I` holds all rows in that order. So
    items that no item of the history speaks for, and all items for an empty history, are those of `Popularity`.
    """

    matrix_II: Any
    order_I: Int32
    items: ItemCatalog
    trained_on: str
    name: ClassVar[str]

    @abstractmethod
    def history_weights(self, histories: Sequences) -> "csr_array":
        """(B, I), sparse: how much each item of a history counts."""

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """(B, k) item rows, best first, -1 where there are no more; `filter_seen` leaves out items of the history."""
        ranked = [np.empty((0, k), dtype=np.int32)]
        for batch in histories.batches(USERS_AT_ONCE):
            scores = self.history_weights(batch) @ self.matrix_II
            scores_BI = scores if isinstance(scores, np.ndarray) else scores.toarray()
            if filter_seen:
                scores_BI[batch.owners(), batch.items] = -np.inf
            ranked.append(_best(scores_BI[:, self.order_I], self.order_I, k))
        return np.concatenate(ranked)


def ages(histories: Sequences) -> npt.NDArray[np.int64]:
    """How many newer items the history has, for each entry of `histories.items`."""
    return np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.items))


def weighted(histories: Sequences, weight_T: npt.NDArray[Any], num_items: int) -> "csr_array":
    """(B, I), sparse: the sum of the weights of an item's entries in `histories.items`."""
    from scipy.sparse import csr_array

    shape = (len(histories), num_items)
    return csr_array((weight_T, (histories.owners(), histories.items)), shape=shape)


def binary(histories: Sequences, num_items: int) -> "csr_array":
    """(B, I), sparse, float32: 1 where a history holds the item."""
    matrix_BI = weighted(histories, np.ones(len(histories.items), dtype=np.float32), num_items)
    matrix_BI.data[:] = 1
    return matrix_BI


def _best(scores_BI: npt.NDArray[Any], row_I: Int32, k: int) -> Int32:
    """(B, k) of the rows that the columns stand for, best first, equal ones as they stand; -inf is no item."""
    ranked_BN = np.full((len(scores_BI), k), -1, dtype=np.int32)
    lowest_B = torch.from_numpy(scores_BI).topk(min(k, len(row_I)), sorted=False).values.amin(1).numpy()
    for ranked_N, scores_I, lowest in zip(ranked_BN, scores_BI, lowest_B, strict=True):
        (above,) = np.nonzero(scores_I > lowest)
        # most scores may be 0: these are not sorted
        equal = np.nonzero(scores_I == lowest)[0][: k - len(above)] if lowest > -np.inf else above[:0]
        best = np.concatenate([above[np.argsort(-scores_I[above], kind="stable")], equal])
        ranked_N[: len(best)] = row_I[best]
    return ranked_BN
