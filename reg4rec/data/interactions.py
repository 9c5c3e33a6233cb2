"""From tables of interactions and items to a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset, check_matrix, load_matrix
from reg4rec.data.kcore import k_core
from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["assemble", "read_interactions"]


def read_interactions(
    interactions: str | Path,
    items: str | Path | None = None,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "timestamp",
    title: str | None = None,
    brand: str | None = None,
    categories: str | None = None,
    min_interactions: int = 5,
    vectors: Mapping[str, str | Path | npt.ArrayLike] | None = None,
    name: str | None = None,
) -> Dataset:
    """A dataset from Parquet, CSV, TSV or JSONL files.

    `user`, `item`, `time` name the columns of the interactions; `time=None` takes the rows as oldest first. `title`,
    `brand`, `categories` name columns of the items file (by default the columns of those names, where present);
    categories are lists, or text separated by "|" or ">". Rows of `vectors` (matrices or .npy paths) follow the
    items file.

    Users and items with fewer than `min_interactions` are removed until none is left (k-core). Equal times keep the
    order of the file; rows that repeat user, item and time are dropped and counted in the card. User and item rows
    follow the sorted ids. An item that the items file lacks gets no text and zero vectors. Raises InputError for
    missing columns, null ids or times, and when nothing is left.
    """
    from reg4rec.data.tables import read_items_table, read_log

    if min_interactions < 1:
        raise InputError(f"min_interactions is {min_interactions}; give 1 or more")
    log = read_log(Path(interactions), user, item, time)
    described = None if items is None else read_items_table(Path(items), item, title, brand, categories)
    source = {"interactions": Path(interactions).name, "items": None if items is None else Path(items).name}
    name = name or Path(interactions).stem
    return assemble(name, log, described, min_interactions, vectors or {}, {"source": source})


def assemble(
    name: str,
    log: pl.DataFrame,
    described: pl.DataFrame | None,
    min_interactions: int,
    vectors: Mapping[str, str | Path | npt.ArrayLike],
    card: dict[str, Any],
) -> Dataset:
    """A dataset from a log (`user_id`, `item_id`, perhaps `timestamp`) and an item table with `item_id`."""
    import polars as pl

    if described is not None and described["item_id"].dtype != log["item_id"].dtype:
        log, described = (table.with_columns(pl.col("item_id").cast(pl.String)) for table in (log, described))
    num_rows = len(log)
    if "timestamp" in log.columns:
        log = log.unique(["user_id", "item_id", "timestamp"], maintain_order=True, keep="first")
        log = log.sort("timestamp", maintain_order=True)
    all_users, users = _codes(log["user_id"])
    all_items, items = _codes(log["item_id"])
    keep = k_core(users, items, min_interactions)
    before = {"users": len(all_users), "items": len(all_items), "interactions": len(log)}
    if not keep.any():
        raise InputError(
            f"no interaction is left with at least {min_interactions} per user and item; there were {before}; "
            "lower min_interactions or bring more data"
        )
    kept_users, users = np.unique(users[keep], return_inverse=True)
    kept_items, items = np.unique(items[keep], return_inverse=True)
    item_ids = all_items.take(pa.array(kept_items))
    rows = _described_rows(described, item_ids)
    dropped = {"duplicates": num_rows - len(log), "below_min_interactions": int((~keep).sum())}
    return Dataset.build(
        name,
        all_users.take(pa.array(kept_users)),
        _group(users, items.astype(np.int32), len(kept_users)),
        ItemCatalog.from_table(_item_table(described, item_ids, rows)),
        {key: _aligned(key, value, described, rows) for key, value in vectors.items()},
        card
        | {
            "before": before,
            "dropped": dropped,
            "min_interactions": min_interactions,
            "items_not_described": int((rows < 0).sum()),
            "order": "by timestamp, ties in file order" if "timestamp" in log.columns else "as in the file",
        },
    )


def _codes(ids: pl.Series) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    values = _arrow(ids.unique().sort())
    return values, np.asarray(pc.index_in(_arrow(ids), value_set=values), dtype=np.int64)


def _arrow(series: pl.Series) -> pa.Array:
    array = series.to_arrow()
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) else array


def _group(users: npt.NDArray[np.int64], items: npt.NDArray[np.int32], num_users: int) -> Sequences:
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=offsets[1:])
    return Sequences(offsets, items[np.argsort(users, kind="stable")])


def _described_rows(described: pl.DataFrame | None, item_ids: pa.Array) -> npt.NDArray[np.int64]:
    """The row of each id in the items file, -1 where it has none."""
    if described is None:
        return np.full(len(item_ids), -1, dtype=np.int64)
    found = pc.index_in(item_ids, value_set=_arrow(described["item_id"]))
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def _item_table(described: pl.DataFrame | None, item_ids: pa.Array, rows: npt.NDArray[np.int64]) -> pa.Table:
    if described is None:
        return pa.table({"item_id": item_ids})
    table = described.drop("item_id").to_arrow().take(pa.array(rows, mask=rows < 0))
    return table.append_column("item_id", item_ids)


def _aligned(
    key: str, matrix: str | Path | npt.ArrayLike, described: pl.DataFrame | None, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    if described is None:
        raise InputError(f"matrix {key!r} needs an items file, whose rows its rows follow; give items=")
    values = load_matrix(Path(matrix)) if isinstance(matrix, str | Path) else matrix
    checked = check_matrix(key, values, len(described))
    return np.where(rows[:, None] >= 0, checked[rows], np.float32(0))
