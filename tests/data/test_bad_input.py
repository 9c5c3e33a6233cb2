"""Faults of a file are named, small damage is counted, and nothing is left half written."""

import json
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch

from reg4rec.data import Dataset, ItemCatalog, ItemViews, Sequences, ViewConfig, read_interactions, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.storage import write_json, write_tensors
from reg4rec.writing import atomic_folder

HEADER = "user_id,item_id,timestamp\n"
GOOD = "a,1,10\nb,2,20\n"


def read(path: Path, **options: Any) -> Dataset:
    return read_interactions(path, min_interactions=1, **options)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (b"a,1\n", "line 4 has 2 fields where 3 were expected"),
        (b"a,1,2,3\n", "line 4 has 4 fields where 3 were expected"),
        (b"\xff,1,2\n", "line 4 is not UTF-8"),
        (b'"a,1,2\n', "line 4 is not a row"),
    ],
)
def test_malformed_lines_are_left_out_counted_and_shown(tmp_path: Path, lines: bytes, problem: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes((HEADER + GOOD).encode() + lines)
    with pytest.warns(UserWarning, match=problem):
        dataset = read(path)
    assert dataset.card["malformed_lines"]["count"] == 1
    assert dataset.card["counts"]["interactions"] == 2
    path.write_bytes((HEADER + GOOD).encode() + lines * 3)
    with pytest.raises(InputError, match=r"more than 2 malformed lines: log\.csv line 4 .*line 5 .*line 6"):
        read(path, max_malformed=2)


@pytest.mark.parametrize("line", ["{", "[1]", '{"user_id": nan}', "7", '{"a":' * 5000])
def test_malformed_json_lines_are_left_out(tmp_path: Path, line: str) -> None:
    row = json.dumps({"user_id": "a", "item_id": 1, "timestamp": 3})
    (tmp_path / "log.jsonl").write_text(f"{row}\n{line}\n\n")
    with pytest.warns(UserWarning, match="line 2 is not a JSON object"):
        assert read(tmp_path / "log.jsonl").num_users == 1


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes((HEADER + "é,1,2\n" * 20).encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_bytes((HEADER + GOOD).encode("utf-8-sig"))
    assert read(tmp_path / "log.csv").user_ids.to_pylist() == ["a", "b"]


@pytest.mark.parametrize("name", ["log.csv", "log.tsv.gz", "log.jsonl", "log.parquet", "log.inter", "log.txt"])
def test_empty_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read|no interaction|not a complete"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "log.inter"])
def test_missing_columns_are_named_beside_those_found(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"user_id": ["a"], "sku": [1]})
    writers: dict[str, Callable[[Path], Any]] = {
        "log.csv": frame.write_csv,
        "log.jsonl": frame.write_ndjson,
        "log.parquet": frame.write_parquet,
        "log.inter": lambda path: frame.write_csv(path, separator="\t"),
    }
    writers[name](tmp_path / name)
    with pytest.raises(InputError, match="no column item_id, timestamp; it has user_id, sku"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([3, 1, 2], [1, 2, 3]),
        ([2**63, 5, 6], ["5", "6", "9223372036854775808"]),
        (["10", "9", "8"], ["10", "8", "9"]),
        (["a", "7", "007"], ["007", "7", "a"]),
        (["9f1c2d3e-0000-4000-8000-000000000001", "b", "ü"], ["9f1c2d3e-0000-4000-8000-000000000001", "b", "ü"]),
    ],
)
def test_ids_come_back_as_they_were_given(tmp_path: Path, ids: list[Any], kept: list[Any]) -> None:
    kind = pl.UInt64 if 2**63 in ids else None
    log = {"user_id": pl.Series(ids, dtype=kind), "item_id": pl.Series(ids, dtype=kind), "timestamp": [1, 2, 3]}
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    dataset = read(tmp_path / "log.parquet")
    assert dataset.items.ids.to_pylist() == kept
    assert dataset.user_ids.to_pylist() == kept
    dataset.save(tmp_path / "set")
    assert Dataset.load(tmp_path / "set").items.ids.to_pylist() == kept
    assert dataset.items.rows(kept).tolist() == [0, 1, 2]


def test_users_of_one_item_train_but_are_not_evaluated(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + "a,1,1\nb,1,1\nb,2,2\nb,3,3\n")
    dataset = read(tmp_path / "log.csv")
    assert dataset.card["counts"]["users_without_targets"] == 1
    assert dataset.part("train").lengths.tolist() == [1, 1]
    assert dataset.items.rows([2, 99]).tolist() == [1, -1]


def test_user_ids_name_one_sequence_each() -> None:
    items = ItemCatalog.from_table(pa.table({"item_id": [1]}))
    for users in ([1, 1], [1, None]):
        with pytest.raises(InputError, match="one sequence per user"):
            Dataset.build("x", pa.array(users), Sequences.from_lists([[0], [0]]), items)
    with pytest.raises(InputError, match="of type double"):
        ItemCatalog.from_table(pa.table({"item_id": [0.5]}))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic_shop(num_users=20, num_items=15)


@contextmanager
def small_files() -> Iterator[None]:
    """No file can grow beyond 256 bytes, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("kind", ["dataset", "views", "tensors", "json"])
def test_a_full_disk_leaves_the_old_artifact_whole(tmp_path: Path, data: Dataset, kind: str) -> None:
    path = tmp_path / "artifact"
    views = ItemViews.fit(data, ViewConfig(text_dim=8, collaborative_dim=8))
    save: dict[str, Callable[[], None]] = {
        "dataset": lambda: data.save(path),
        "views": lambda: views.save(path),
        "tensors": lambda: write_tensors(path, {"x": torch.ones(4096)}),
        "json": lambda: write_json(path, {"x": [1] * 4096}),
    }
    save[kind]()
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    with small_files(), pytest.raises(InputError, match=r"cannot be written: .*what was there is unchanged"):
        save[kind]()
    assert {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()} == before


def test_a_folder_that_may_not_be_written_is_reported(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        data.save(tmp_path / "set")


def test_other_errors_inside_a_folder_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "x", "a"):
        (tmp_path / "nothing").read_bytes()


def test_no_warning_without_malformed_lines(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + GOOD + "a,2,11\na,3,12\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "log.csv").card["malformed_lines"] == {"count": 0, "first": []}


def test_a_column_that_parquet_cannot_hold_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user_id": "a", "item_id": 1, "timestamp": 3}\n')
    (tmp_path / "items.jsonl").write_text('{"item_id": 1, "extra": {}}\n')
    dataset = read(tmp_path / "log.jsonl", items=tmp_path / "items.jsonl")
    with pytest.raises(InputError, match=r"items\.parquet cannot be written: .*'extra'.*; leave that column out"):
        dataset.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
