"""What the stages measure after every epoch, and keep their best weights by."""

from reg4rec.data import Dataset
from reg4rec.evaluation import Ranker, evaluate

__all__ = ["validation_metrics"]


def validation_metrics(ranker: Ranker, data: Dataset, max_users: int, seed: int) -> dict[str, float]:
    """`validation_recall@10` and `validation_ndcg@10` under `standard`, for a sample of users drawn with `seed`."""
    report = evaluate(ranker, data, "validation", ks=(10,), max_users=max_users, seed=seed)
    return {f"validation_{name}": value for name, value in report.rows[0].metrics.items()}
