"""Nearest items by text: what needs no training interactions at all."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reg4rec.data import Sequences

__all__ = ["TextNeighbor"]

Int32 = npt.NDArray[np.int32]
USERS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class TextNeighbor:
    """Ranks items by the cosine of their text and the mean text of a history's newest items.

    `text_IV` has unit rows; `newest` None takes all items of the history.
    """

    text_IV: npt.NDArray[np.float32]
    newest: int | None = None

    def rank(self, histories: Sequences, k: int, allowed: Int32) -> Int32:
        """(B, k) rows of the `allowed` items, best first, ties by place in `allowed`; items of the history never."""
        ranked = [self._ranked(batch, k, allowed) for batch in histories.batches(USERS_AT_ONCE)]
        return np.concatenate(ranked) if ranked else np.empty((0, k), dtype=np.int32)

    def _ranked(self, histories: Sequences, k: int, allowed: Int32) -> Int32:
        read = histories if self.newest is None else histories.last(self.newest)
        query_BV = np.zeros((len(histories), self.text_IV.shape[1]), dtype=np.float32)
        np.add.at(query_BV, read.owners(), self.text_IV[read.items])
        scores_BI = np.full((len(histories), len(self.text_IV)), -np.inf, dtype=np.float32)
        scores_BI[:, allowed] = query_BV @ self.text_IV[allowed].T
        scores_BI[histories.owners(), histories.items] = -np.inf
        scores_BX = scores_BI[:, allowed]
        best_BN = np.argsort(-scores_BX, axis=1, kind="stable")[:, :k]
        open_BN = np.isfinite(np.take_along_axis(scores_BX, best_BN, axis=1))
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        ranked_BN[:, : best_BN.shape[1]] = np.where(open_BN, allowed[best_BN], -1)
        return ranked_BN
