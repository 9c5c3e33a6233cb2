"""Nearest items by their vectors."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg4rec.errors import InputError

__all__ = ["nearest_items"]

SCORES_AT_ONCE = 1 << 24


def nearest_items(vectors_IV: Tensor, rows: npt.NDArray[np.int32], k: int, removed_I: Tensor) -> tuple[Tensor, Tensor]:
    """(score_BN, row_BN): the items with the highest cosine to each of `rows`, best first, ties by lowest row.

    N is `k`, or less if fewer other items are left. InputError for k below 1.
    """
    if k < 1:
        raise InputError(f"k is the number of similar items and must be at least 1, found {k}")
    unit_IV = torch.nn.functional.normalize(vectors_IV.float(), dim=-1)
    count = max(0, min(k, len(unit_IV) - int(removed_I.sum()) - 1))
    scores, found = [unit_IV.new_empty(0, count)], [torch.empty(0, count, dtype=torch.int64)]
    for part_B in torch.from_numpy(rows).long().split(max(1, SCORES_AT_ONCE // len(unit_IV))):
        cosine_BI = (unit_IV[part_B] @ unit_IV.T).scatter_(1, part_B[:, None], -torch.inf)
        cosine_BI[:, removed_I] = -torch.inf
        ranked = cosine_BI.sort(dim=1, descending=True, stable=True)
        scores.append(ranked.values[:, :count])
        found.append(ranked.indices[:, :count])
    return torch.cat(scores), torch.cat(found)
