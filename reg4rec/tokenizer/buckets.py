"""Which items are alike in everything: the same tokens, or the same vector."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bucket_sizes"]


def bucket_sizes(rows_IX: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many rows equal each row bit by bit, itself included: sizes_I."""
    whole_I = np.ascontiguousarray(rows_IX).view(np.dtype((np.void, rows_IX.itemsize * rows_IX.shape[1]))).ravel()
    _, inverse_I, counts = np.unique(whole_I, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse_I], dtype=np.int64)
