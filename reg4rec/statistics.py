"""How sure a mean over users, or the difference of two, is."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["by_user", "error_of_mean", "is_higher", "paired_interval"]

RESAMPLES, DRAWS_AT_ONCE = 2000, 1 << 22

Float64 = npt.NDArray[np.float64]


def by_user(values_B: Float64, users_B: npt.NDArray[Any]) -> Float64:
    """A value for each user, whose mean is that of the values; values of a user need not be independent, users are."""
    users, row_B = np.unique(users_B, return_inverse=True)
    return np.asarray(np.bincount(row_B, values_B) * (len(users) / len(values_B)), dtype=np.float64)


def error_of_mean(values_B: Float64, users_B: npt.NDArray[Any] | None = None) -> float:
    """The standard error of a mean of values whose users are independent; several values of a user need not be.

    Without `users_B` each value is of another user.
    """
    centered = values_B - values_B.mean()
    if users_B is not None:
        centered = np.bincount(np.unique(users_B, return_inverse=True)[1], centered)
    return float(np.sqrt(np.square(centered).sum())) / len(values_B)


def is_higher(values_B: Float64, than_B: Float64, errors: float) -> bool:
    """Whether the mean gain of the users, two or more, is above `errors` times its standard error."""
    gain_B = values_B - than_B
    return len(gain_B) > 1 and bool(gain_B.mean() > errors * error_of_mean(gain_B))


def paired_interval(values_B: Float64, than_B: Float64, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of the users' differences: the interval holds 95 % of the means of users drawn with repeats."""
    gain_B, rng = values_B - than_B, np.random.default_rng(seed)
    at_once, means = max(1, DRAWS_AT_ONCE // len(gain_B)), list[float]()
    while len(means) < RESAMPLES:
        drawn = rng.integers(0, len(gain_B), (min(at_once, RESAMPLES - len(means)), len(gain_B)))
        means += gain_B[drawn].mean(1).tolist()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(gain_B.mean()), float(low), float(high)
