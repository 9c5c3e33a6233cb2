"""The k-core of interactions."""

import numpy as np
import numpy.typing as npt

__all__ = ["k_core"]


def k_core(users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], minimum: int) -> npt.NDArray[np.bool_]:
    """Which interactions remain when users and items with fewer than `minimum` of them are removed again and again.

    `users` and `items` are whole numbers from 0, one pair an interaction.
    """
    keep = np.ones(len(users), dtype=np.bool_)
    while keep.any():
        per_user = np.bincount(users[keep], minlength=users.max() + 1)
        per_item = np.bincount(items[keep], minlength=items.max() + 1)
        stays = keep & (per_user[users] >= minimum) & (per_item[items] >= minimum)
        if (stays == keep).all():
            break
        keep = stays
    return keep
