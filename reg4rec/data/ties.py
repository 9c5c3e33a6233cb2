"""Interactions of one user at equal times: how many there are, whether their ids order them, and how to undo that."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["shuffled_ties", "tied_times"]

FEW_TIES, IN_ORDER = 20, 0.9
"""Number of equal times, and share of them in the order of ids, from which a warning says so."""

Numbers = npt.NDArray[Any]


def tied_times(sequences: Sequences, times: Numbers, item_ids: pa.Array) -> dict[str, Any]:
    """Which share of neighboring interactions of a user have equal times, and whether ids put those in order."""
    users, items = sequences.owners(), sequences.items
    neighbors = users[1:] == users[:-1]
    tied = neighbors & (times[1:] == times[:-1])
    count = int(tied.sum())
    rank_I = np.argsort(np.asarray(pc.array_sort_indices(item_ids)))
    ranks = [rank_I[items]]
    if not pa.types.is_integer(item_ids.type):  # "i9" before "i10", too
        ranks.append(np.argsort(np.lexsort((rank_I, np.asarray(pc.utf8_length(item_ids)))))[items])
    rises = [float((rank[1:] > rank[:-1])[tied].mean()) for rank in ranks] if count else []
    falls = [float((rank[1:] < rank[:-1])[tied].mean()) for rank in ranks] if count else []
    in_order = count >= FEW_TIES and max(rises + falls) >= IN_ORDER
    return {"share": round(count / max(int(neighbors.sum()), 1), 4), "in_order_of_ids": in_order}


def shuffled_ties(sequences: Sequences, times: Numbers | None, seed: int) -> npt.NDArray[np.int64]:
    """The places of all interactions, each user's of equal time in random order; InputError without times."""
    if times is None:
        raise InputError("shuffling ties needs the time of every interaction; this dataset was read without times")
    chance = np.random.default_rng(seed).random(len(times))
    return np.lexsort((chance, times, sequences.owners()))
