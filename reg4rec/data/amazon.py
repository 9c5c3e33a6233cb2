"""Prepared Amazon folders: `sequences.txt`, `items.jsonl`, and matrices `*.npy` with one row an item."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset, load_matrix
from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["is_amazon_folder", "read_amazon"]


def is_amazon_folder(folder: Path) -> bool:
    """Whether `folder` holds the two files that make a prepared Amazon dataset."""
    return (folder / "sequences.txt").is_file() and (folder / "items.jsonl").is_file()


def read_amazon(folder: Path) -> Dataset:
    """The dataset of a prepared folder.

    A line of `sequences.txt` is `user item item ...`, oldest first, with item ids from 1; line r of `items.jsonl`
    describes item r and names its `asin`, which becomes the item id. The first listed category path counts.
    """
    user_ids, sequences = _read_sequences(folder / "sequences.txt")
    items = _read_items(folder / "items.jsonl")
    vectors = {
        path.name.removesuffix(".npy").removesuffix(".f16"): load_matrix(path) for path in sorted(folder.glob("*.npy"))
    }
    card = {"source": f"prepared Amazon folder {folder.name}", "order": "as listed, oldest first"}
    return Dataset.build(folder.name, user_ids, sequences, items, vectors, card)


def _read_sequences(path: Path) -> tuple[pa.Array, Sequences]:
    users, lengths, items = [], [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        user, *row = line.split() or [""]
        if not row:
            raise InputError(f"{path} line {number} names no item; expected `user item item ...`")
        users.append(user)
        lengths.append(len(row))
        items.extend(row)
    try:
        flat = np.asarray(items, dtype=np.int64)
    except ValueError:
        raise InputError(f"{path} holds an item that is not a whole number; expected `user item item ...`") from None
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.array(users), Sequences(offsets, (flat - 1).astype(np.int32))


def _read_items(path: Path) -> ItemCatalog:
    try:
        table = pyarrow.json.read_json(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not readable as one JSON object a line: {error}") from None
    missing = {"item_id", "asin", "categories"} - set(table.column_names)
    if missing:
        raise InputError(f"{path} has no columns {sorted(missing)}; it has {table.column_names}")
    if table["item_id"].to_pylist() != list(range(1, table.num_rows + 1)):
        raise InputError(f"{path} does not list item_id 1 to {table.num_rows} in order")
    first_paths = [paths[0] if paths else None for paths in table["categories"].to_pylist()]
    columns = {name: table[name] for name in table.column_names if name not in ("item_id", "asin", "categories")}
    return ItemCatalog.from_table(
        pa.table({"item_id": table["asin"], "categories": pa.array(first_paths, pa.list_(pa.string()))} | columns)
    )
