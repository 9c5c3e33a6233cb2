"""Ranking metrics of one relevant item a user."""

import numpy as np
import numpy.typing as npt

__all__ = ["gains", "hit_ranks", "ndcg_at", "paired_interval", "recall_at"]

RESAMPLES, DRAWS_AT_ONCE = 2000, 1 << 22

Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]


def hit_ranks(ranked_BN: Int32, target_B: Int32) -> npt.NDArray[np.int64]:
    """The 0-based rank of each user's target, N where it is not ranked; the first place counts if it stands twice."""
    hits_BN = ranked_BN == target_B[:, None]
    return np.where(hits_BN.any(axis=1), hits_BN.argmax(axis=1), ranked_BN.shape[1])


def recall_at(ranked_BN: Int32, target_B: Int32, k: int) -> Float64:
    """1 for each user whose target is among the first `k` items, else 0, (B,); places past N hold nothing."""
    return (hit_ranks(ranked_BN[:, :k], target_B) < min(k, ranked_BN.shape[1])).astype(np.float64)


def ndcg_at(ranked_BN: Int32, target_B: Int32, k: int) -> Float64:
    """1 / log2(2 + rank) for each user whose target has a 0-based rank below `k`, else 0, (B,)."""
    return gains(hit_ranks(ranked_BN[:, :k], target_B), min(k, ranked_BN.shape[1]))


def gains(rank_B: npt.NDArray[np.int64], k: int) -> Float64:
    """What a target of this 0-based rank adds to NDCG@k."""
    return np.where(rank_B < k, 1.0 / np.log2(2.0 + rank_B), 0.0)


def paired_interval(values_B: Float64, than_B: Float64, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of the users' differences: the interval holds 95 % of the means of users drawn with repeats."""
    gain_B, rng = values_B - than_B, np.random.default_rng(seed)
    at_once, means = max(1, DRAWS_AT_ONCE // len(gain_B)), list[float]()
    while len(means) < RESAMPLES:
        drawn = rng.integers(0, len(gain_B), (min(at_once, RESAMPLES - len(means)), len(gain_B)))
        means += gain_B[drawn].mean(1).tolist()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(gain_B.mean()), float(low), float(high)
