"""Sequences behave like a list of arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reg4rec.data import Sequences
from reg4rec.errors import InputError

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=7), max_size=9)


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


@given(ROWS)
def test_lists_come_back(rows: list[list[int]]) -> None:
    sequences = Sequences.from_lists(rows)
    assert as_lists(sequences) == rows
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert (sequences.offsets.dtype, sequences.items.dtype) == (np.int64, np.int32)


@given(ROWS, st.integers(0, 9))
def test_last_keeps_the_newest(rows: list[list[int]], n: int) -> None:
    expected = [row[len(row) - min(n, len(row)) :] for row in rows]
    assert as_lists(Sequences.from_lists(rows).last(n)) == expected


@given(ROWS, st.integers(0, 9))
def test_without_last_drops_the_newest(rows: list[list[int]], n: int) -> None:
    assert as_lists(Sequences.from_lists(rows).without_last(n)) == [row[: max(len(row) - n, 0)] for row in rows]


@given(ROWS.filter(bool), st.data())
def test_take_follows_the_given_rows(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    assert as_lists(Sequences.from_lists(rows).take(chosen)) == [rows[r] for r in chosen]


def test_owners_name_the_user_of_every_item() -> None:
    assert Sequences.from_lists([[5, 6], [], [7]]).owners().tolist() == [0, 0, 2]


def test_rows_outside_are_refused() -> None:
    sequences = Sequences.from_lists([[1], [2, 3]])
    assert sequences[-1].tolist() == [2, 3]
    for row in (2, -3):
        with pytest.raises(IndexError):
            sequences[row]
    with pytest.raises(InputError, match="-1"):
        sequences.last(-1)


def test_batches_are_all_sequences_in_order() -> None:
    sequences = Sequences.from_lists([[1, 2], [], [3], [4, 5, 6], [7]])
    batches = list(sequences.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [batch[b].tolist() for batch in batches for b in range(len(batch))] == [[1, 2], [], [3], [4, 5, 6], [7]]
    assert list(sequences.take([]).batches(2)) == []
