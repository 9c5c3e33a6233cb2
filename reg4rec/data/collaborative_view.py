"""The collaborative view: vectors from the co-occurrence of items in training sequences."""

from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.data.sequences import Sequences
from reg4rec.data.text_view import unit_rows

__all__ = ["collaborative_view"]

WINDOW = 10
SMOOTHING = 0.75


def collaborative_view(train: Sequences, num_items: int, dim: int, seed: int) -> npt.NDArray[np.float32] | None:
    """(I, V) unit rows with V <= dim: truncated SVD of the positive PMI of items at most `WINDOW` steps apart.

    A pair d steps apart counts 1/d. Context counts are raised to the power 0.75, so that rare items do not dominate.
    Items without a neighbor in training get zeros; None if there are no pairs.
    """
    from sklearn.utils.extmath import randomized_svd

    ppmi_II = positive_pmi(cooccurrence(train, num_items))
    if not ppmi_II.nnz:
        return None
    left_IV, strength_V, _ = randomized_svd(ppmi_II, n_components=min(dim, num_items), random_state=seed)
    return unit_rows(left_IV * np.sqrt(strength_V))


def cooccurrence(train: Sequences, num_items: int) -> Any:
    """Symmetric sparse (I, I) counts of pairs of different items within `WINDOW` steps, weighted by 1/distance."""
    from scipy.sparse import coo_array

    owners = train.owners()
    total = coo_array((num_items, num_items), dtype=np.float64).tocsr()
    for distance in range(1, WINDOW + 1):
        left, right = train.items[:-distance], train.items[distance:]
        near = (owners[:-distance] == owners[distance:]) & (left != right)
        weight = np.full(near.sum(), 1.0 / distance)
        total = total + coo_array((weight, (left[near], right[near])), shape=total.shape).tocsr()
    return total + total.T


def positive_pmi(counts_II: Any) -> Any:
    """max(0, log P(i, j) / (P(i) P_smooth(j))) of sparse co-occurrence counts, sparse."""
    from scipy.sparse import coo_array

    pairs = counts_II.tocoo()
    per_item = np.asarray(counts_II.sum(axis=1)).ravel()
    context = per_item**SMOOTHING
    row, column = pairs.coords
    pmi = np.log(pairs.data) - np.log(per_item[row]) - np.log(context[column]) + np.log(max(context.sum(), 1e-300))
    keep = pmi > 0
    return coo_array((pmi[keep].astype(np.float32), (row[keep], column[keep])), shape=counts_II.shape).tocsr()
