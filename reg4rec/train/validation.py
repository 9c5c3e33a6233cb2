"""What the stages measure after every epoch, and keep their best weights by."""

from collections.abc import Sequence

from reg4rec.data import Dataset
from reg4rec.evaluation import Ranker, evaluate

__all__ = ["validation_metrics"]


def validation_metrics(
    ranker: Ranker, data: Dataset, max_users: int, seed: int, ks: Sequence[int] = (10,)
) -> dict[str, float]:
    """`validation_recall@k` and `validation_ndcg@k` under `standard`, for a sample of users drawn with `seed`."""
    report = evaluate(ranker, data, "validation", ks=ks, max_users=max_users, seed=seed)
    return {f"validation_{name}": value for name, value in report.rows[0].metrics.items()}
