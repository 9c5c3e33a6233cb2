"""The k-core of interactions."""

import numpy as np
import numpy.typing as npt

__all__ = ["k_core"]


def k_core(users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], minimum: int) -> npt.NDArray[np.bool_]:
    """Which interactions remain when users and items with fewer than `minimum` of them are removed again and again.

    `users` and `items` are whole numbers from 0, one pair an interaction.
    """
    left = np.arange(len(users))
    while len(left):
        some_users, some_items = users[left], items[left]
        stays = (np.bincount(some_users)[some_users] >= minimum) & (np.bincount(some_items)[some_items] >= minimum)
        if stays.all():
            break
        left = left[stays]
    keep = np.zeros(len(users), dtype=np.bool_)
    keep[left] = True
    return keep
