"""What the stages measure after every epoch, and keep their best weights by."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from reg4rec import distributed
from reg4rec.data import Dataset, Sequences
from reg4rec.evaluation import DetailedRanker, ProtocolName, Ranker, evaluate, rank_metrics
from reg4rec.loop import Validation

__all__ = ["OVERLAP", "Watched", "validate"]

OVERLAP = "list_overlap@10"


class Watched:
    """Ranks as another ranker does, and knows how much the lists of different users are alike."""

    def __init__(self, ranker: Ranker, data: Dataset):
        self.ranker, self.name, self.trained_on = ranker, ranker.name, ranker.trained_on
        self.count_I, self.lists = np.zeros(data.num_items), 0

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """What the ranker ranks."""
        return self._seen(self.ranker.rank(histories, k, filter_seen))

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[np.float64]]]:
        """`rank`, and the details that the ranker has."""
        if not isinstance(self.ranker, DetailedRanker):
            return self.rank(histories, k, filter_seen), {}
        ranked_BN, details = self.ranker.rank_with_details(histories, k, filter_seen, targets)
        return self._seen(ranked_BN), details

    def overlap(self) -> float:
        """The part of the first ten items that two users have in common, 1 where all get the same; 0 for one user."""
        count_I = distributed.total(torch.from_numpy(self.count_I)).numpy()
        lists = distributed.summed({"lists": self.lists})["lists"]
        return float((count_I * (count_I - 1)).sum() / max(1.0, (lists - 1) * count_I.sum()))

    def _seen(self, ranked_BN: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        head_BN = np.asarray(ranked_BN)[:, :10]
        self.count_I += np.bincount(head_BN[head_BN >= 0], minlength=len(self.count_I))
        self.lists += len(head_BN)
        return ranked_BN


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

    `validation_list_overlap@10` tells how much their lists are alike (`Watched.overlap`).
    `monitor` is the name of the one whose value of each user is given too.
    """
    watched = Watched(ranker, data)
    (row,) = evaluate(watched, data, "validation", protocol, ks, max_users, seed).rows
    metrics = {f"validation_{name}": value for name, value in (*row.metrics.items(), (OVERLAP, watched.overlap()))}
    return Validation(metrics, rank_metrics(row.ranks_B, ks)[monitor.removeprefix("validation_")])
