"""Popularity ranks by training counts."""

import numpy as np
import pyarrow as pa

from reg4rec.data import Dataset, ItemCatalog, Sequences
from reg4rec.evaluation import Popularity


def make_dataset() -> Dataset:
    histories = [[2, 1, 3, 3], [2, 3, 3, 0], [1, 0, 3, 3]]
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(5))}))
    return Dataset.build("tiny", pa.array([1, 2, 3]), Sequences.from_lists(histories), items)


def test_order_is_by_count_then_by_row() -> None:
    assert Popularity.fit(make_dataset()).order_I.tolist() == [1, 2, 0, 3, 4]
    assert Popularity.fit(make_dataset(), "train+validation").order_I.tolist() == [3, 1, 2, 0, 4]


def test_seen_items_are_left_out_and_short_lists_are_padded() -> None:
    popularity = Popularity.fit(make_dataset())
    histories = Sequences.from_lists([[1, 2], [], [0, 1, 2, 3, 4]])
    assert popularity.rank(histories, 4, True).tolist() == [[0, 3, 4, -1], [1, 2, 0, 3], [-1, -1, -1, -1]]
    assert popularity.rank(histories, 7, False)[0].tolist() == [1, 2, 0, 3, 4, -1, -1]
    assert popularity.rank(histories, 2, False).dtype == np.int32
