"""Matrices keyed by item id, and the fingerprint of a dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from reg4rec.data import Dataset, ItemCatalog, Sequences, read_interactions
from reg4rec.data.fingerprint import fingerprint
from reg4rec.errors import InputError

LOG = {"user_id": [1, 1, 2], "item_id": ["b", "a", "c"], "timestamp": [1, 2, 3]}


def write_log(folder: Path) -> Path:
    pl.DataFrame(LOG).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def write_matrix(folder: Path, ids: list[Any], rows: Any, width: int | None = None) -> Path:
    kind = pl.List(pl.Float32) if width is None else pl.Array(pl.Float32, width)
    frame = pl.DataFrame({"item_id": ids, "vector": pl.Series(rows, dtype=kind), "note": "x"})
    frame.write_parquet(folder / "image.parquet")
    return folder / "image.parquet"


@pytest.mark.parametrize("width", [None, 2])
def test_rows_find_their_items_and_missing_ones_are_zero_and_counted(tmp_path: Path, width: int | None) -> None:
    matrix = write_matrix(tmp_path, ["c", "x", "a"], [[3, 4], [9, 9], [1, 2]], width)
    expected = [[1, 2], [0, 0], [3, 4]]
    read = read_interactions(write_log(tmp_path), vectors={"image": matrix}, min_interactions=1)
    added = read_interactions(tmp_path / "log.parquet", min_interactions=1).with_vectors({"image": matrix})
    for dataset in (read, added):
        assert dataset.vectors["image"].tolist() == expected
        assert dataset.card["vectors"] == {"image": {"items_missing": 1, "rows_unused": 1}}
    assert read.card["fingerprint"] == added.card["fingerprint"]
    read.save(tmp_path / "set")
    assert Dataset.load(tmp_path / "set").card == read.card


def test_numbers_and_texts_name_the_same_items(tmp_path: Path) -> None:
    pl.DataFrame(LOG | {"item_id": [1, 2, 3]}).write_parquet(tmp_path / "log.parquet")
    matrix = write_matrix(tmp_path, ["2", "07"], [[1], [5]])
    dataset = read_interactions(tmp_path / "log.parquet", vectors={"image": matrix}, min_interactions=1)
    assert dataset.vectors["image"].tolist() == [[0], [1], [0]]


def test_arrays_and_npy_files_follow_the_items(tmp_path: Path) -> None:
    dataset = read_interactions(write_log(tmp_path), min_interactions=1)
    np.save(tmp_path / "m.npy", np.arange(6).reshape(3, 2))
    both = dataset.with_vectors({"x": tmp_path / "m.npy", "y": [[1], [2], [3]]})
    assert both.vectors["x"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert both.with_vectors({"z": np.ones((3, 1))}).vectors.keys() == {"x", "y", "z"}
    assert dataset.vectors == {}


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (["a", "a"], [[1], [2]], "null or repeated ids"),
        (["a", None], [[1], [2]], "null or repeated ids"),
        (["a", "b"], [[1], None], "or null lists"),
        (["a", "b"], [[1], [1, 2]], r"lengths \[1, 2\]"),
        (["a", "b"], [[], []], r"lengths \[0\]"),
        (["a", "b"], [[1], [None]], "nulls"),
        (["a", "b"], [[1], [float("inf")]], "NaN or infinity"),
        ([[1], [2]], [[1], [2]], "2 columns of lists"),
    ],
)
def test_bad_keyed_matrices_are_refused(tmp_path: Path, ids: list[Any], rows: Any, message: str) -> None:
    matrix = write_matrix(tmp_path, ids, rows)
    with pytest.raises(InputError, match=message):
        read_interactions(write_log(tmp_path), vectors={"image": matrix}, min_interactions=1)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0], [1.0, 2.0], [3.0]], "is not a matrix"),
        (np.full((3, 1), 1e300), "as float32"),
        (np.ones((2, 1)), "shape"),
        ("missing.npy", "not a readable .npy"),
        ("missing.txt", "does not end in .npy"),
        ("missing.parquet", "missing"),
    ],
)
def test_bad_matrices_are_refused(tmp_path: Path, matrix: Any, message: str) -> None:
    dataset = read_interactions(write_log(tmp_path), min_interactions=1)
    with pytest.raises(InputError, match=message):
        dataset.with_vectors({"image": tmp_path / matrix if isinstance(matrix, str) else matrix})


def test_a_fingerprint_is_of_values_not_of_memory() -> None:
    chunked = pa.chunked_array([["a", None], ["ccc"]])
    forms = [
        chunked,
        pa.array(["a", None, "ccc"]),
        pa.array(["a", None, "ccc"], pa.large_string()),
        pa.array(["x", "a", None, "ccc"]).slice(1),
        pa.array(["a", None, "ccc"]).dictionary_encode(),
    ]
    assert len({fingerprint({"x": form}, {}, {}) for form in forms}) == 1
    lists = [pa.array([[1], None, []], kind) for kind in (pa.list_(pa.int64()), pa.large_list(pa.int64()))]
    assert len({fingerprint({"x": form}, {}, {}) for form in lists}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["ab", ""]),
        (["a", None], ["a", ""]),
        ([1, None], [1, 0]),
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([{"a": 1}], [{"b": 1}]),
        ([{"a": None}], [None]),
        ([True], [False]),
        ([1.5], [2.5]),
    ],
)
def test_different_columns_have_different_fingerprints(one: Any, other: Any) -> None:
    prints = [fingerprint({"x": pa.array(values)}, {}, {}) for values in (one, other)]
    assert prints[0] != prints[1]


def test_every_kind_of_item_column_keeps_the_fingerprint_through_a_file(tmp_path: Path) -> None:
    extra = pl.DataFrame(
        {
            "item_id": ["a", "b"],
            "when": pl.Series(["2024-01-01", None]).str.to_date(),
            "price": pl.Series(["1.10", None]).cast(pl.Decimal(10, 2)),
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
            "raw": [b"\xff\x00", None],
            "nested": [{"a": [1, None]}, None],
            "empty": [None, None],
            "small": pl.Series([1.5, float("nan")], dtype=pl.Float32),
            "flag": [True, None],
        }
    )
    items = ItemCatalog.from_table(extra.to_arrow())
    dataset = Dataset.build("tiny", pa.array([1]), Sequences.from_lists([[0, 1, 0]]), items)
    dataset.save(tmp_path / "set")
    assert Dataset.load(tmp_path / "set").card["fingerprint"] == dataset.card["fingerprint"]
