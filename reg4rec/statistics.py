"""Standard errors and confidence intervals of means over users and of their differences."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["by_user", "error_of_mean", "is_higher", "paired_interval"]

RESAMPLES, DRAWS_AT_ONCE = 2000, 1 << 22

Float64 = npt.NDArray[np.float64]


def by_user(values_B: Float64, users_B: npt.NDArray[Any]) -> Float64:
    """One value per user: the user's sum, scaled so that the mean over users is the mean of all values."""
    users, row_B = np.unique(users_B, return_inverse=True)
    return np.asarray(np.bincount(row_B, values_B) * (len(users) / len(values_B)), dtype=np.float64)


def error_of_mean(values_B: Float64, users_B: npt.NDArray[Any] | None = None) -> float:
    """The standard error of the mean: users are independent, the values of one user need not be (clustered by user).

    Without `users_B` every value belongs to a different user.
    """
    centered = values_B - values_B.mean()
    if users_B is not None:
        centered = np.bincount(np.unique(users_B, return_inverse=True)[1], centered)
    return float(np.sqrt(np.square(centered).sum())) / len(values_B)


def is_higher(values_B: Float64, than_B: Float64, errors: float) -> bool:
    """Whether the mean of values - than exceeds `errors` times its standard error; False for fewer than two users."""
    gain_B = values_B - than_B
    return len(gain_B) > 1 and bool(gain_B.mean() > errors * error_of_mean(gain_B))


def paired_interval(values_B: Float64, than_B: Float64, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of the differences values - than, with a 95 % bootstrap interval over users."""
    gain_B, rng = values_B - than_B, np.random.default_rng(seed)
    at_once, means = max(1, DRAWS_AT_ONCE // len(gain_B)), list[float]()
    while len(means) < RESAMPLES:
        drawn = rng.integers(0, len(gain_B), (min(at_once, RESAMPLES - len(means)), len(gain_B)))
        means += gain_B[drawn].mean(1).tolist()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(gain_B.mean()), float(low), float(high)
