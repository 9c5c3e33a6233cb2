"""Held-back items: leave-one-out and splits by time."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reg4rec.data import Dataset, ItemCatalog, Sequences, Split, read_interactions, synthetic_shop
from reg4rec.data.hints import card_warnings
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6).filter(any)


def make_dataset(times: list[list[int]] | None, histories: list[list[int]] | None = None) -> Dataset:
    rows = histories or [list(range(len(row))) for row in times or []]
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(10))}))
    flat = None if times is None else [moment for row in times for moment in row]
    return Dataset.build("tiny", pa.array(range(len(rows))), Sequences.from_lists(rows), items, times=flat)


def as_lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


def test_targets_are_the_last_of_a_period() -> None:
    dataset = make_dataset([[1, 5, 10, 11, 20, 21], [10, 20], [1, 2, 3], [25], [3, 20]])
    split = dataset.with_time_split(10, 20, "timestamp")
    assert as_lists(split.part("train")) == [[0, 1], [], [0, 1, 2], [], [0]]
    assert as_lists(split.part("train+validation")) == [[0, 1, 2, 3], [0], [0, 1, 2], [], [0]]
    assert [a.tolist() for a in split.targets("validation")] == [[0], [3]]
    assert [a.tolist() for a in split.targets("test")] == [[0, 1, 4], [5, 1, 1]]
    assert as_lists(split.cases("test").histories) == [[0, 1, 2, 3, 4], [0], [0]]
    assert split.card["split"] == {
        "kind": "time",
        "validation_from": 10,
        "test_from": 20,
        "targets": "last",
        "validation_targets": 1,
        "test_targets": 3,
    }
    every = dataset.with_time_split(10, 20, "timestamp", "all")
    assert [a.tolist() for a in every.targets("validation")] == [[0, 0], [2, 3]]
    assert [a.tolist() for a in every.targets("test")] == [[0, 0, 1, 4], [4, 5, 1, 1]]
    assert every.card["counts"]["users_without_targets"] == 2


@given(LISTS, st.integers(0, 9), st.integers(1, 5), st.sampled_from(["last", "all"]))
def test_no_part_sees_what_happened_after_its_cut(rows: list[list[int]], first: int, gap: int, kind: Any) -> None:
    times = [sorted(row) for row in rows]
    dataset = make_dataset(times).with_time_split(first, first + gap, "timestamp", kind)
    for part, cut in (("train", first), ("train+validation", first + gap)):
        kept = as_lists(dataset.part(part))  # type: ignore[arg-type]
        assert [len(row) for row in kept] == [sum(moment < cut for moment in row) for row in times]
    for split, low, high in (("validation", first, first + gap), ("test", first + gap, 99)):
        expected = []
        for user, row in enumerate(times):
            inside = [n for n, moment in enumerate(row) if low <= moment < high and n > 0]
            expected += [(user, n) for n in (inside if kind == "all" else inside[-1:])]
        cases = dataset.cases(split)  # type: ignore[arg-type]
        assert list(zip(cases.users_B.tolist(), cases.targets_B.tolist(), strict=True)) == expected
        assert as_lists(cases.histories) == [list(range(n)) for _, n in expected]


def test_quantiles_become_the_next_moments() -> None:
    dataset = make_dataset([list(range(50)), list(range(50, 100))], [[0] * 50, [1] * 50])
    split = dataset.with_time_split(0.8, 0.9).split
    assert (split.validation_from, split.test_from) == (81, 91)
    for cuts in ((0.9, 0.8), (0, 0.5), (0.5, 1)):
        with pytest.raises(InputError, match="must rise between 0 and 1"):
            dataset.with_time_split(*cuts)
    with pytest.raises(InputError, match="choose others"):
        make_dataset([[7, 7, 7]]).with_time_split()
    with pytest.raises(InputError, match="must be one of"):
        dataset.with_time_split(0.8, 0.9, targets="first")  # type: ignore[arg-type]


def test_a_split_is_saved_and_changes_the_fingerprint(tmp_path: Path) -> None:
    dataset = make_dataset([[1, 5, 10, 11, 20], [3, 8, 30]])
    split = dataset.with_time_split(10, 20, "timestamp")
    assert split.card["fingerprint"] != dataset.card["fingerprint"]
    split.save(tmp_path / "set")
    loaded = Dataset.load(tmp_path / "set")
    assert (loaded.split, loaded.card) == (split.split, split.card)
    assert loaded.times is not None
    assert loaded.times.tolist() == [1, 5, 10, 11, 20, 3, 8, 30]
    assert loaded.with_time_split(8, 20, "timestamp").targets("validation")[0].tolist() == [0, 1]


def test_shuffled_ties_stay_at_their_times(tmp_path: Path) -> None:
    times, rows = [[1, 1, 1, 2, 3, 3], [5], [4, 4]], [[0, 1, 2, 3, 4, 5], [6], [7, 8]]
    dataset = make_dataset(times, rows)
    found = {seed: as_lists(dataset.with_shuffled_ties(seed).sequences) for seed in range(30)}
    for lists in found.values():
        assert [set(lists[0][:3]), lists[0][3], set(lists[0][4:]), lists[1]] == [{0, 1, 2}, 3, {4, 5}, [6]]
    assert len({tuple(lists[0][:3]) for lists in found.values()}) == 6
    shuffled = dataset.with_shuffled_ties(3)
    assert as_lists(shuffled.sequences) == found[3]
    shuffled.save(tmp_path / "set")
    assert Dataset.load(tmp_path / "set").card["ties_shuffled_with_seed"] == 3
    with pytest.raises(InputError, match="read without times"):
        make_dataset(None, rows).with_shuffled_ties()


def test_ties_in_the_order_of_ids_are_counted_and_reported() -> None:
    rows = [sorted(np.random.default_rng(u).permutation(10)[:6].tolist()) for u in range(9)]
    dataset = make_dataset([[0, 0, 0, 1, 1, 1]] * 9, rows)
    assert dataset.card["tied_times"] == {"share": 0.8, "in_order_of_ids": True}
    assert "sorted by id" in card_warnings(dataset.card)[0]
    assert not dataset.with_shuffled_ties().card["tied_times"]["in_order_of_ids"]
    tied = dataset.tied_targets("test")
    assert tied is not None
    assert tied.all()
    assert not make_dataset([[0, 0, 0, 1]]).tied_targets("test")[0]  # type: ignore[index]


def test_leave_one_out_is_the_default_and_needs_no_times() -> None:
    dataset = make_dataset(None, [[0, 1, 2]])
    assert dataset.split == Split("leave-one-out")
    assert dataset.card["split"]["test_targets"] == 1
    with pytest.raises(InputError, match="read without times"):
        dataset.with_time_split()


@pytest.mark.parametrize(
    ("times", "message"),
    [([3, 2], "not in order"), ([1.0, np.inf], "not finite"), ([1], "shape \\(1,\\)"), (["a", "b"], "<U1")],
)
def test_bad_times_are_refused(times: Any, message: str) -> None:
    items = ItemCatalog.from_table(pa.table({"item_id": [0]}))
    with pytest.raises(InputError, match=message):
        Dataset.build("tiny", pa.array([1]), Sequences.from_lists([[0, 0]]), items, times=times)


@pytest.mark.parametrize(
    "fields",
    [
        ("weekly",),
        ("time",),
        ("time", 2.0, 1.0),
        ("time", 1.0, float("nan")),
        ("leave-one-out", 1.0),
        ("time", "a", "b"),
        ("time", 1.0, 2.0),
        ("time", 1.0, 2.0, "first"),
        ("leave-one-out", None, None, "last"),
    ],
)
def test_bad_splits_are_refused(fields: Any) -> None:
    with pytest.raises(InputError):
        Split(*fields)
    wrong: list[Any] = [None, [], {"kind": "time", "more": 1}]
    for stored in wrong:
        with pytest.raises(InputError, match="does not describe a split"):
            Split.from_json(stored)


def test_dates_are_times_in_microseconds(tmp_path: Path) -> None:
    days = pl.Series(["2024-01-01", "2024-01-03", "2024-01-02"]).str.to_date()
    log = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [1, 3, 2], "timestamp": days})
    log.write_parquet(tmp_path / "log.parquet")
    dataset = read_interactions(tmp_path / "log.parquet", min_interactions=1)
    assert dataset.times is not None
    assert np.diff(dataset.times).tolist() == [86_400_000_000] * 2


def test_a_report_says_how_targets_were_held_back() -> None:
    shop = synthetic_shop(num_users=30)
    times = np.concatenate([np.arange(n) + u for u, n in enumerate(shop.sequences.lengths)])
    dated = Dataset.build("dated", shop.user_ids, shop.sequences, shop.items, times=times).with_time_split()
    report = evaluate(Popularity.fit(dated), dated, ks=(5,))
    assert report.card["held_back"] == dated.split.to_json()
    assert report.card["users"] == dated.card["split"]["test_targets"]
    assert "test (time)" in report.table()
    assert evaluate(Popularity.fit(shop), shop, ks=(5,)).card["held_back"] == {"kind": "leave-one-out"}
