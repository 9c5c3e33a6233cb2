"""The rank of every user's target, which a report only has the means of."""

import numpy as np
import numpy.typing as npt

from reg4rec.data import Sequences
from reg4rec.evaluation.metrics import hit_ranks
from reg4rec.evaluation.protocol import DetailedRanker

__all__ = ["RecordedRanks"]


class RecordedRanks:
    """A ranker as `evaluate` takes it, which keeps the ranks of the targets that this process evaluated."""

    def __init__(self, ranker: DetailedRanker):
        self.ranker, self.name, self.trained_on = ranker, ranker.name, ranker.trained_on
        self.items, self._ranks = getattr(ranker, "items", None), list[npt.NDArray[np.int64]]()

    @property
    def ranks_B(self) -> npt.NDArray[np.int64]:  # noqa: N802
        """0-based, the largest cut-off where a target was not found."""
        return np.concatenate(self._ranks)

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        return self.ranker.rank(histories, k, filter_seen)

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[np.float64]]]:
        ranked_BN, details = self.ranker.rank_with_details(histories, k, filter_seen, targets)
        self._ranks.append(hit_ranks(ranked_BN, targets))
        return ranked_BN, details
