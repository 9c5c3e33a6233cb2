"""Reading the user's own tables."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reg4rec.data import Dataset, read_interactions
from reg4rec.data.interactions import k_core
from reg4rec.errors import InputError

LOG: dict[str, list[Any]] = {
    "user_id": ["b", "a", "b", "a", "b", "a"],
    "item_id": [30, 30, 20, 10, 10, 20],
    "timestamp": [5, 9, 5, 1, 4, 9],
}


def write(path: Path, columns: dict[str, Any]) -> Path:
    frame = pl.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def histories(dataset: Dataset) -> dict[Any, list[Any]]:
    ids = dataset.items.ids.to_pylist()
    users = dataset.user_ids.to_pylist()
    return {user: [ids[i] for i in dataset.sequences[row]] for row, user in enumerate(users)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_every_format_gives_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    dataset = read_interactions(write(tmp_path / f"log{suffix}", LOG), min_interactions=1)
    assert histories(dataset) == {"a": [10, 30, 20], "b": [10, 30, 20]}
    assert dataset.items.ids.to_pylist() == [10, 20, 30]
    assert dataset.name == "log"


def test_columns_are_mapped_and_dates_are_times(tmp_path: Path) -> None:
    days = ["2024-01-09", "2024-01-10", "2023-12-31"]
    log = write(tmp_path / "log.csv", {"who": [1, 1, 1], "what": ["x", "y", "z"], "when": days})
    dataset = read_interactions(log, user="who", item="what", time="when", min_interactions=1)
    assert histories(dataset) == {1: ["z", "x", "y"]}


def test_without_times_the_file_is_the_order(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", {"user_id": [1, 1, 1], "item_id": [7, 5, 7]})
    assert histories(read_interactions(log, time=None, min_interactions=1)) == {1: [7, 5, 7]}


def test_leading_zeros_of_ids_survive(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG | {"item_id": ["007", "007", "7", "12", "12", "7"]})
    assert read_interactions(log, min_interactions=1).items.ids.to_pylist() == ["007", "12", "7"]


def test_repeated_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", {name: values + values[:2] for name, values in LOG.items()})
    dataset = read_interactions(log, min_interactions=1)
    assert dataset.card["dropped"] == {"duplicates": 2, "below_min_interactions": 0}
    assert dataset.card["before"] == {"users": 2, "items": 3, "interactions": 6}


def test_k_core_is_counted(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log.csv",
        {name: [*values, last] for (name, values), last in zip(LOG.items(), ["c", 40, 1], strict=True)},
    )
    dataset = read_interactions(log, min_interactions=2)
    assert dataset.card["before"] == {"users": 3, "items": 4, "interactions": 7}
    assert dataset.card["counts"]["interactions"] == 6
    assert dataset.card["dropped"]["below_min_interactions"] == 1
    with pytest.raises(InputError, match=r"at least 4 .* 'interactions': 7"):
        read_interactions(log, min_interactions=4)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60), st.integers(1, 4))
def test_k_core_is_the_largest_set_that_meets_the_threshold(pairs: list[tuple[int, int]], minimum: int) -> None:
    users, items = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    left = list(range(len(pairs)))
    while True:
        fewer = [
            n
            for n in left
            if sum(users[m] == users[n] for m in left) >= minimum and sum(items[m] == items[n] for m in left) >= minimum
        ]
        if fewer == left:
            break
        left = fewer
    assert np.flatnonzero(k_core(users, items, minimum)).tolist() == left


@pytest.mark.parametrize(
    "categories",
    [
        ["A > B", "A>C|", None],
        ["A|B", "A | C", ""],
        [["A", "B"], ["A", "C"], None],
        [[["A", "B"], ["X"]], [["A", "C"]], None],
    ],
)
def test_category_paths_come_in_several_shapes(tmp_path: Path, categories: list[Any]) -> None:
    log = write(tmp_path / "log.csv", LOG)
    items = write(tmp_path / "items.parquet", {"item_id": [10, 20, 30], "path": categories})
    dataset = read_interactions(log, items, categories="path", min_interactions=1)
    assert dataset.items.category_names == ["A > B", "A > C"]
    assert dataset.items.categories_I.tolist() == [0, 1, -1]


def test_items_are_joined_and_missing_ones_have_no_text(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    columns = {"item_id": [30, 99, 10], "name": ["shoe", "hat", "sock"], "price": [3.0, 9.0, 1.0]}
    items = write(tmp_path / "items.csv", columns)
    vectors: dict[str, npt.ArrayLike] = {"image": np.array([[3.0], [9.0], [1.0]])}
    options: dict[str, Any] = {"title": "name", "clicked_only": True}
    dataset = read_interactions(log, items, vectors=vectors, **options)
    table = dataset.items.table
    assert table.column_names == ["item_id", "title", "brand", "categories", "price"]
    assert table["title"].to_pylist() == ["sock", None, "shoe"]
    assert dataset.card["items_not_described"] == 1
    assert dataset.vectors["image"].tolist() == [[1.0], [0.0], [3.0]]
    np.save(tmp_path / "image.npy", np.asarray(vectors["image"]))
    stored = read_interactions(log, items, vectors={"image": tmp_path / "image.npy"}, **options)
    assert stored.card["fingerprint"] == dataset.card["fingerprint"]


def test_an_items_file_may_list_ids_alone(tmp_path: Path) -> None:
    log, items = write(tmp_path / "log.csv", LOG), write(tmp_path / "items.csv", {"item_id": [30, 10]})
    dataset = read_interactions(log, items, min_interactions=1)
    assert dataset.items.ids.to_pylist() == [10, 20, 30]
    assert dataset.card["items_not_described"] == 1


def test_files_that_describe_none_of_the_items_are_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    items = write(tmp_path / "items.csv", {"item_id": ["B001"], "title": ["shoe"]})
    with pytest.raises(InputError, match=r"describes no item of .* for example not '10', which has 'B001'"):
        read_interactions(log, items, min_interactions=1)
    (tmp_path / "items.csv").write_text("item_id,title\n")
    with pytest.raises(InputError, match=r"describes no item of the interactions.* which is empty"):
        read_interactions(log, items, min_interactions=1)
    pl.DataFrame({"item_id": ["B001"], "vector": [[1.0, 2.0]]}).write_parquet(tmp_path / "image.parquet")
    with pytest.raises(InputError, match="no id of the vectors is an item id: the vectors have ids such as 'B001'"):
        read_interactions(log, vectors={"image": tmp_path / "image.parquet"}, min_interactions=1)


def test_texts_of_several_lines_stay_whole_beside_an_empty_one(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    rows = ["item_id,title,description", '10,sock,"of wool\nand warm"', "20,,plain", '30,shoe,"of\nleather"']
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n")
    table = read_interactions(log, tmp_path / "items.csv", title="title", min_interactions=1).items.table
    assert table["title"].to_pylist() == ["sock", None, "shoe"]
    assert table["description"].to_pylist() == ["of wool\nand warm", "plain", "of\nleather"]


def test_a_time_of_day_is_no_time(tmp_path: Path) -> None:
    times = [dt.time(hour) for hour in range(6)]
    with pytest.raises(InputError, match="is a time of day or a duration; join it with its date"):
        read_interactions(write(tmp_path / "log.parquet", LOG | {"timestamp": times}), min_interactions=1)


def test_numbers_and_texts_meet_as_text(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", LOG)
    items = write(tmp_path / "items.csv", {"item_id": ["10", "B7"], "title": ["sock", "hat"]})
    dataset = read_interactions(log, items, min_interactions=1)
    assert dataset.items.ids.to_pylist() == ["10", "20", "30", "B7"]
    assert dataset.items.texts(("title",)) == ["sock", "", "", "hat"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"user_id": [None] * 6}, {}, "no interaction with a user and an item"),
        ({"item_id": [0.5] * 6}, {}, "Float64"),
        ({"timestamp": [1.0, float("nan"), 1.0, 1.0, 1.0, 1.0]}, {}, "1 rows without timestamp"),
        ({"timestamp": ["soon"] * 6}, {}, "numbers or dates"),
        ({}, {"item": "sku"}, "no column sku; it has user_id, item_id, timestamp"),
        ({}, {"min_interactions": 0}, "min_interactions is 0"),
        ({}, {"min_interactions": 1, "vectors": {"image": np.ones((3, 2))}}, "needs an items file"),
    ],
)
def test_bad_logs_are_refused(tmp_path: Path, change: Any, options: dict[str, Any], message: str) -> None:
    log = write(tmp_path / "log.parquet", LOG | change)
    with pytest.raises(InputError, match=message):
        read_interactions(log, **options)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    empty, headed = tmp_path / "empty.csv", tmp_path / "headed.csv"
    empty.write_text("")
    headed.write_text("user_id,item_id,timestamp\n")
    for path, message in ((empty, "cannot be read"), (headed, "no interaction"), (tmp_path / "none.csv", "no file")):
        with pytest.raises(InputError, match=message):
            read_interactions(path)
    log = write(tmp_path / "log.csv", LOG)
    with pytest.raises(InputError, match=r"known endings are \.parquet"):
        read_interactions(log.rename(tmp_path / "log.xlsx"))
    log = write(tmp_path / "log.csv", LOG)
    with pytest.raises(InputError, match="no column sku"):
        read_interactions(log, item="sku")
    twice = write(tmp_path / "items.csv", {"item_id": [10, 10]})
    with pytest.raises(InputError, match="item 10 more than once"):
        read_interactions(log, twice)


@pytest.mark.parametrize(
    ("name", "categories"),
    [("items.parquet", [7, 7, 12]), ("items.csv", [7, 7, 12]), ("items.parquet", [[7, 1], [7, 1], [12, 1]])],
)
def test_numbers_are_names_of_categories(tmp_path: Path, name: str, categories: list[Any]) -> None:
    log = write(tmp_path / "log.parquet", {"user_id": ["u"] * 3, "item_id": [10, 20, 30], "timestamp": [1, 2, 3]})
    items = write(tmp_path / name, {"item_id": [10, 20, 30], "categories": categories})
    found = read_interactions(log, items, min_interactions=1).items
    assert found.category_names == (["7", "12"] if isinstance(categories[0], int) else ["7 > 1", "12 > 1"])
    assert found.categories_I.tolist() == [0, 0, 1]


def test_categories_that_are_no_names_are_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.parquet", {"user_id": ["u"], "item_id": [10], "timestamp": [1]})
    items = write(tmp_path / "items.parquet", {"item_id": [10], "categories": [0.5]})
    with pytest.raises(InputError, match="is double; categories must be text, whole numbers or lists of them"):
        read_interactions(log, items, min_interactions=1)


def dated(path: Path, *dates: str) -> Path:
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"u,{i},{date}\n" for i, date in enumerate(dates)))
    return path


@pytest.mark.parametrize("date", ["03/04/2021", "3-4-2021", "03.04.2021 10:00", "25/04/21"])
def test_dates_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, date: str) -> None:
    log = dated(tmp_path / "log.csv", date, date)
    with pytest.raises(InputError, match=f"column timestamp of .* has dates such as '{date}', .*2021-04-03"):
        read_interactions(log, min_interactions=1)


@pytest.mark.parametrize(
    "dates", [("03/04/2021", "25/04/2021"), ("2021/04/03", "2021/04/25"), ("2021-04-03", "2021-04-25")]
)
def test_dates_that_one_of_them_explains_are_read(tmp_path: Path, dates: tuple[str, str]) -> None:
    times = read_interactions(dated(tmp_path / "log.csv", *dates), min_interactions=1).times
    assert times is not None
    assert times.tolist() == [int(dt.datetime(2021, 4, day, tzinfo=dt.UTC).timestamp()) * 10**6 for day in (3, 25)]
