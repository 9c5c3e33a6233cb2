"""The validation that stages run after every epoch, to keep the best weights."""

from collections.abc import Sequence

from reg4rec.data import Dataset
from reg4rec.evaluation import ProtocolName, Ranker, evaluate, rank_metrics
from reg4rec.loop import Validation
from reg4rec.statistics import by_user

__all__ = ["OVERLAP", "validate"]

OVERLAP = "list_overlap@10"


def validate(
    ranker: Ranker,
    data: Dataset,
    monitor: str,
    protocol: ProtocolName,
    max_users: int | None,
    seed: int,
    ks: Sequence[int] = (10,),
) -> Validation:
    """Recall and NDCG at `ks`, named `validation_recall@k` and so on, of `max_users` users drawn with `seed` (or all).

    `validation_list_overlap@10` is the mean overlap of two users' lists. The metric `monitor` is also returned for each
    user. If kinds of events have weights, only users whose target has the largest weight count: with mostly views as
    targets, validation would choose the epoch that knows least about purchases (docs/data.md).
    """
    (row,) = evaluate(ranker, data, "validation", protocol, ks, max_users, seed, heaviest=True).rows
    metrics = {f"validation_{name}": value for name, value in row.metrics.items()}
    metrics[f"validation_{OVERLAP}"] = row.lists[f"overlap@{min(10, max(ks))}"]
    values_B = rank_metrics(row.ranks_B, ks)[monitor.removeprefix("validation_")]
    return Validation(metrics, by_user(values_B, row.users_B))
