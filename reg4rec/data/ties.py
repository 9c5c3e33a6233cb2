"""Interactions of one user at equal times: their share, whether they are sorted by id, and how to shuffle them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["shuffled_ties", "tied_times"]

FEW_TIES, IN_ORDER = 20, 0.9
"""Ties count as sorted by id if there are at least FEW_TIES and the share IN_ORDER of them is in order."""

Numbers = npt.NDArray[Any]


def tied_times(sequences: Sequences, times: Numbers, item_ids: pa.Array) -> dict[str, Any]:
    """The share of consecutive interactions of a user with equal times, and whether those are sorted by id."""
    users, items = sequences.owners(), sequences.items
    neighbors = users[1:] == users[:-1]
    tied = neighbors & (times[1:] == times[:-1])
    count = int(tied.sum())
    rank_I = np.argsort(np.asarray(pc.array_sort_indices(item_ids)))
    ranks = [rank_I[items]]
    if not pa.types.is_integer(item_ids.type):  # also in order of length: "i9" before "i10"
        ranks.append(np.argsort(np.lexsort((rank_I, np.asarray(pc.utf8_length(item_ids)))))[items])
    rises = [float((rank[1:] > rank[:-1])[tied].mean()) for rank in ranks] if count else []
    falls = [float((rank[1:] < rank[:-1])[tied].mean()) for rank in ranks] if count else []
    in_order = count >= FEW_TIES and max(rises + falls) >= IN_ORDER
    return {"share": round(count / max(int(neighbors.sum()), 1), 4), "in_order_of_ids": in_order}


def shuffled_ties(sequences: Sequences, times: Numbers | None, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of all interactions that shuffles each user's equal times; InputError without times."""
    if times is None:
        raise InputError("shuffling ties needs the time of every interaction; this dataset was read without times")
    chance = np.random.default_rng(seed).random(len(times))
    return np.lexsort((chance, times, sequences.owners()))
