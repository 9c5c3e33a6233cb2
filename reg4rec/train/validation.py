"""What the stages measure after every epoch, and keep their best weights by."""

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
    """Recall and NDCG at `ks`, named `validation_recall@k`, of a sample of `max_users` drawn with `seed`, or of all.

    `validation_list_overlap@10` tells how much their lists are alike. `monitor` is the name of the one whose value of
    each user is given too. Where kinds of events have weights, the users are those whose target weighs most: asked
    mostly for views, validation would choose the epoch that has learned least of the purchases (docs/data.md).
    """
    (row,) = evaluate(ranker, data, "validation", protocol, ks, max_users, seed, heaviest=True).rows
    metrics = {f"validation_{name}": value for name, value in row.metrics.items()}
    metrics[f"validation_{OVERLAP}"] = row.lists[f"overlap@{min(10, max(ks))}"]
    values_B = rank_metrics(row.ranks_B, ks)[monitor.removeprefix("validation_")]
    return Validation(metrics, by_user(values_B, row.users_B))
