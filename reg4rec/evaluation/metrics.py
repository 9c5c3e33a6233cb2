"""Ranking metrics for one relevant item per user."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["gains", "hit_ranks", "rank_metrics"]

Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]


def hit_ranks(ranked_BN: Int32, target_B: Int32) -> npt.NDArray[np.int64]:
    """The 0-based rank of each user's target (the first, if repeated), N if it is not ranked.

    Metrics at k need lists of k places or more (-1 where there are no more items), as all rankers of the library give.
    """
    hits_BN = ranked_BN == target_B[:, None]
    return np.where(hits_BN.any(axis=1), hits_BN.argmax(axis=1), ranked_BN.shape[1])


def gains(rank_B: npt.NDArray[np.int64], k: int) -> Float64:
    """The NDCG@k of targets with these 0-based ranks."""
    return np.where(rank_B < k, 1.0 / np.log2(2.0 + rank_B), 0.0)


def rank_metrics(rank_B: npt.NDArray[np.int64], ks: Sequence[int]) -> dict[str, Float64]:
    """`recall@k`, `ndcg@k` and `mrr@k` of each target from its 0-based rank, (B,) each; the hit rate equals recall."""
    values = {f"{name}@{k}": of(rank_B, k) for k in ks for name, of in (("recall", _hits), ("ndcg", gains))}
    return values | {f"mrr@{k}": np.where(rank_B < k, 1 / (1.0 + rank_B), 0.0) for k in ks}


def _hits(rank_B: npt.NDArray[np.int64], k: int) -> Float64:
    return (rank_B < k).astype(np.float64)
