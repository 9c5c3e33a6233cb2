"""Estimates for unseen items: a mean over the most similar known items."""

import numpy as np
import numpy.typing as npt

from reg4rec.data.text_view import unit_rows

__all__ = ["neighbor_mean"]

NEIGHBORS, SHARPNESS = 20, 8
COSINES_AT_ONCE = 1 << 24

Float32 = npt.NDArray[np.float32]


def neighbor_mean(vectors_BV: Float32, known_XV: Float32, values_XT: Float32) -> Float32:
    """(B, T): the mean value of the 20 nearest known items, weighted by the eighth power of their cosine similarity.

    Zeros for a vector without a positive cosine.
    """
    vectors_BV, known_XV = unit_rows(vectors_BV), unit_rows(known_XV)
    mean_BT = np.zeros((len(vectors_BV), values_XT.shape[1]), dtype=np.float32)
    count, size = min(NEIGHBORS, len(known_XV)), max(1, COSINES_AT_ONCE // max(1, len(known_XV)))
    for start in range(0, len(vectors_BV), size):
        cosine_BX = np.maximum(vectors_BV[start : start + size] @ known_XV.T, 0)
        near_BN = np.argpartition(-cosine_BX, count - 1, axis=1)[:, :count]
        weight_BN = np.take_along_axis(cosine_BX, near_BN, axis=1) ** SHARPNESS
        weight_BN /= np.maximum(weight_BN.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        mean_BT[start : start + size] = np.einsum("bn,bnd->bd", weight_BN, values_XT[near_BN])
    return mean_BT
