"""What the stages measure after every epoch, and keep their best weights by."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from reg4rec.data import Dataset, Sequences
from reg4rec.evaluation import Ranker, evaluate

__all__ = ["of_heaviest_kind", "validation_metrics"]


def validation_metrics(
    ranker: Ranker, data: Dataset, max_users: int, seed: int, ks: Sequence[int] = (10,)
) -> dict[str, float]:
    """`validation_recall@k` and `validation_ndcg@k` under `standard`, for a sample of users drawn with `seed`.

    Where kinds of events have weights, the users are those of `of_heaviest_kind`.
    """
    report = evaluate(ranker, of_heaviest_kind(data), "validation", ks=ks, max_users=max_users, seed=seed)
    return {f"validation_{name}": value for name, value in report.rows[0].metrics.items()}


def of_heaviest_kind(data: Dataset) -> Dataset:
    """The data of the users whose validation target weighs most, of all users without weights.

    Asked mostly for views, validation would choose the epoch that has learned least of the purchases (docs/data.md).
    """
    if data.weights is None:
        return data
    users, _ = data.targets("validation")
    weight_B = data.weights[data.sequences.offsets[users] + data.part("train").lengths[users]]
    kept = users[weight_B == weight_B.max(initial=0)]
    place = Sequences(data.sequences.offsets, np.arange(len(data.sequences.items), dtype=np.int32)).take(kept).items
    return replace(
        data,
        user_ids=data.user_ids.take(pa.array(kept)),
        sequences=data.sequences.take(kept),
        times=None if data.times is None else data.times[place],
        kinds=None,
    )
