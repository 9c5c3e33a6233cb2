"""A part of the items and a part of the users that training never sees."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reg4rec.data import Cases, Dataset, ItemCatalog, Sequences
from reg4rec.data.events import Kinds
from reg4rec.errors import InputError

__all__ = ["HeldOut", "hold_out"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What is left to fit on, and what was held out, for people and items that come later.

    `seen` and `unseen` are the data of the users seen in training and of the others, both without the new items:
    users, items, texts, matrices, interactions. `new_items` and `new_vectors` describe the new items.
    `new_item_cases` are seen users whose next item is new; a new item's row follows those of `seen` and is the
    number of seen items plus its row in `new_items`. Their histories hold seen items only.
    """

    seen: Dataset
    unseen: Dataset
    new_items: pa.Table
    new_vectors: dict[str, npt.NDArray[np.float32]]
    new_item_cases: Cases


def hold_out(data: Dataset, items: float, users: float, seed: int) -> HeldOut:
    """Hold out random parts of the items and of the users; the same seed draws the same ones.

    New items keep the order in which they were drawn, so that ties by row number favor none of them. InputError
    where too little is left or no user's next item is new.
    """
    draw = np.random.default_rng(seed)
    new_item, seen_items = _drawn(draw, data.num_items, items)
    new_user, seen_users = _drawn(draw, data.num_users, users)
    row_I = np.empty(data.num_items, dtype=np.int32)
    row_I[np.concatenate([seen_items, new_item])] = np.arange(data.num_items)

    cases = data.cases("test")
    chosen = (row_I[cases.targets_B] >= len(seen_items)) & np.isin(cases.users_B, seen_users)
    cases = cases.take(np.flatnonzero(chosen))
    before = cases.histories
    histories = _kept(Sequences(before.offsets, row_I[before.items]), row_I[before.items] < len(seen_items))
    known = np.flatnonzero(histories.lengths)
    if not len(known):
        raise InputError(f"none of the {len(new_item)} held-out items is next for a user; hold out a larger part")
    return HeldOut(
        seen=_without(data, seen_users, seen_items, row_I),
        unseen=_without(data, new_user, seen_items, row_I),
        new_items=data.items.table.take(pa.array(new_item)),
        new_vectors={name: matrix[new_item] for name, matrix in data.vectors.items()},
        new_item_cases=Cases.of(cases.users_B[known], histories.take(known), row_I[cases.targets_B[known]]),
    )


def _drawn(draw: np.random.Generator, count: int, part: float) -> tuple[Int64, Int64]:
    """The rows of a random part, in random order, and all other rows, ascending."""
    order = draw.permutation(count)
    size = round(part * count)
    return order[:size], np.sort(order[size:])


def _without(data: Dataset, users: Int64, items: Int64, row_I: Int32) -> Dataset:
    """The data of some users and of the given items alone; users that are left with nothing are dropped."""
    whole = data.sequences.take(users)
    kept = row_I[whole.items] < len(items)
    left = _kept(Sequences(whole.offsets, row_I[whole.items]), kept)
    filled = np.flatnonzero(left.lengths)
    # the places of these users' interactions, taken as their items are
    place = Sequences(data.sequences.offsets, np.arange(len(data.sequences.items), dtype=np.int32))
    place_X = place.take(users).items[kept]
    return Dataset.build(
        data.name,
        data.user_ids.take(pa.array(users[filled])),
        left.take(filled),
        ItemCatalog.from_table(data.items.table.take(pa.array(items)), data.items.category_level),
        {name: matrix[items] for name, matrix in data.vectors.items()},
        times=None if data.times is None else data.times[place_X],
        split=data.split,
        kinds=None if data.kinds is None else Kinds(data.kinds.weights, data.kinds.rows[place_X]),
    )


def _kept(sequences: Sequences, keep: npt.NDArray[np.bool_]) -> Sequences:
    """The sequences without the interactions that are not kept."""
    before = np.concatenate([[0], np.cumsum(keep)])
    return Sequences(before[sequences.offsets], sequences.items[keep])
