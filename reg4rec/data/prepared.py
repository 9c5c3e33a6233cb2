"""Prepared sequences: `sequences.txt`, alone (as of S3-Rec) or with `items.jsonl`, `times.txt` and matrices `*.npy`."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.lines import BadLines, numbered_lines, read_text
from reg4rec.data.matrices import load_matrix
from reg4rec.data.sequences import Sequences
from reg4rec.data.split import Times, check_times
from reg4rec.errors import InputError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["is_prepared_folder", "read_prepared", "read_sequence_log"]

LAYOUT = "`user item item ...`, oldest first"
MARKS = ",;:[](){}|"


def is_prepared_folder(folder: Path) -> bool:
    """Whether `folder` has `sequences.txt` and `items.jsonl`."""
    return (folder / "sequences.txt").is_file() and (folder / "items.jsonl").is_file()


def read_prepared(folder: Path) -> Dataset:
    """The dataset in a prepared folder.

    Lines of `sequences.txt` are `user item item ...`, oldest first, with item numbers from 1. Line r of `items.jsonl`
    describes item r; its `asin` becomes the item id, its first category path the category. The optional `times.txt`
    has the same lines, with the time of each item instead of its number.
    """
    user_ids, sequences = _read_sequences(folder / "sequences.txt")
    times_file = folder / "times.txt"
    times = _read_times(times_file, user_ids, sequences) if times_file.is_file() else None
    items = _read_items(folder / "items.jsonl")
    vectors: dict[str, npt.ArrayLike] = {
        path.name.removesuffix(".npy").removesuffix(".f16"): load_matrix(path) for path in sorted(folder.glob("*.npy"))
    }
    card = {"source": f"prepared folder {folder.name}", "order": "as listed, oldest first"}
    return Dataset.build(folder.name, user_ids, sequences, items, vectors, card, times)


def read_sequence_log(paths: list[Path], bad: BadLines) -> pl.DataFrame:
    """A table `user_id`, `item_id` from files with lines `user item item ...`, in file order."""
    import polars as pl

    from reg4rec.data.values import as_plain_ids

    users: list[str] = []
    lengths: list[int] = []
    items: list[str] = []
    for path in paths:
        for whole, part in zip((users, lengths, items), _read_lines(path, bad), strict=True):
            whole += part  # type: ignore[operator]
    if not users:
        raise InputError(f"{paths[0]} has no interactions; lines are {LAYOUT}, separated by blanks")
    owners = np.repeat(np.arange(len(users)), lengths)
    return pl.DataFrame(
        {"user_id": as_plain_ids(pl.Series(users))[owners], "item_id": as_plain_ids(pl.Series(items, dtype=pl.String))}
    )


def _read_lines(path: Path, bad: BadLines) -> tuple[list[str], list[int], list[str]]:
    """Users, the number of items in each line, and all items; InputError for separators other than blanks."""
    users, lengths, items = [], [], []
    for number, line in numbered_lines(path):
        try:
            user, *row = line.decode().split()
        except (UnicodeDecodeError, ValueError):
            bad.add(path, number, "is not UTF-8 text")
            continue
        if any(word[-1] in MARKS or word[0] in MARKS for word in (user, *row)):
            raise InputError(
                f"{path} line {number} has commas, colons or brackets between its ids ({line.decode()[:40]!r}); lines "
                f"are {LAYOUT}, separated by blanks only"
            )
        if not row:
            bad.add(path, number, f"has no item; expected {LAYOUT}, separated by blanks")
            continue
        users.append(user)
        lengths.append(len(row))
        items.extend(row)
    return users, lengths, items


def _read_sequences(path: Path) -> tuple[pa.Array, Sequences]:
    users, lengths, items = _read_lines(path, BadLines(limit=0))
    try:
        flat = np.asarray(items, dtype=np.int64)
        if len(flat) and (flat.min() < 0 or flat.max() > np.iinfo(np.int32).max):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"{path} has an item that is not a whole number from 1; expected {LAYOUT}") from None
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.array(users, pa.string()), Sequences(offsets, (flat - 1).astype(np.int32))


def _read_times(path: Path, user_ids: pa.Array, sequences: Sequences) -> Times:
    """The times of the interactions, int64 if all are whole numbers; InputError unless they match the sequences."""
    users, lengths, words = _read_lines(path, BadLines(limit=0))
    wrong = [
        number
        for number, (user, expected, length, due) in enumerate(
            zip_longest(users, user_ids.to_pylist(), lengths, sequences.lengths.tolist()), start=1
        )
        if user != expected or length != due
    ]
    if wrong:
        raise InputError(
            f"{path} line {wrong[0]} does not match sequences.txt: expected the same user, and one time per item "
            f"({len(wrong):,} lines differ)"
        )
    try:
        try:
            times: npt.NDArray[Any] = np.asarray(words, dtype=np.int64)
        except (ValueError, OverflowError):
            times = np.asarray(words, dtype=np.float64)
        return check_times(sequences, times)
    except (ValueError, InputError) as error:
        raise InputError(f"{path} does not have a valid time for each item of sequences.txt: {error}") from None


def _read_items(path: Path) -> ItemCatalog:
    try:
        content = read_text(path)
        content.decode()
        table = pyarrow.json.read_json(pa.BufferReader(content))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable as one JSON object per line: {error}") from None
    missing = {"item_id", "asin", "categories"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} has no columns {sorted(missing)}; it has {table.column_names}")
    if table["item_id"].to_pylist() != list(range(1, table.num_rows + 1)):
        raise InputError(f"{path} does not list item_id 1 to {table.num_rows} in order")
    first_paths = [_first_path(path, paths) for paths in table["categories"].to_pylist()]
    columns = {name: table[name] for name in table.column_names if name not in ("item_id", "asin", "categories")}
    return ItemCatalog.from_table(
        pa.table({"item_id": table["asin"], "categories": pa.array(first_paths, pa.list_(pa.string()))} | columns)
    )


def _first_path(path: Path, paths: Any) -> list[str] | None:
    if not paths:
        return None
    first = paths[0] if isinstance(paths, list) else paths
    if not isinstance(first, list) or not all(isinstance(name, str) for name in first):
        raise InputError(f"{path} has categories {paths!r} where a list of lists of text was expected")
    return first
