"""How long a fitted method takes to answer."""

import statistics
import time

import numpy as np

from reg4rec.data import Dataset
from reg4rec.evaluation import Ranker

__all__ = ["BATCHES", "latencies"]

BATCHES = (1, 64)
CALLS = 20
ITEMS = 10


def latencies(ranker: Ranker, data: Dataset) -> dict[str, float]:
    """Milliseconds, by number of users, to rank 10 unseen items for that many test users: the median of 20 calls.

    Every call is for other users, the same for every ranker; one more call before them is not counted.
    """
    of_users, draw = data.cases("test").histories, np.random.default_rng(0)
    found = {}
    for batch in BATCHES:
        times = []
        for _ in range(CALLS + 1):
            histories = of_users.take(draw.choice(len(of_users), min(batch, len(of_users)), replace=False))
            began = time.perf_counter()
            ranker.rank(histories, ITEMS, True)
            times.append(1000 * (time.perf_counter() - began))
        found[str(batch)] = statistics.median(times[1:])
    return found
