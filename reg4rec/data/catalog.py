"""The item catalog: ids, texts, categories."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.categories import category_paths
from reg4rec.data.frames import as_table
from reg4rec.data.parquet import read_parquet, write_parquet
from reg4rec.errors import InputError

__all__ = ["ItemCatalog"]

MIN_CLASSES = 30
FEW_IDS = 4096
TEXT_COLUMNS: dict[str, pa.DataType] = {
    "title": pa.string(),
    "brand": pa.string(),
    "categories": pa.list_(pa.string()),
}


@dataclass(frozen=True, eq=False)
class ItemCatalog:
    """Items in row order: `item_id`, `title`, `brand`, `categories` (first listed path) and any other columns.

    Make one with `from_table`. `category_level` is the number of path elements that make a category class; 0 if no item
    has a category.
    """

    table: pa.Table
    category_level: int

    @classmethod
    def from_table(cls, table: Any, category_level: int | None = None) -> "ItemCatalog":
        """A catalog from a table (see `as_table`); missing text columns are added as nulls.

        Categories are lists, or text such as "A > B". The default for `category_level` is the shallowest level with at
        least 30 classes, else the deepest one. InputError for missing, null or repeated ids.
        """
        table = _with_text_columns(as_table(table))
        _check_ids(table["item_id"])
        _check_paths(table)
        level = choose_level(table["categories"].to_pylist()) if category_level is None else category_level
        if level < 0:
            raise InputError(f"category_level is {level}; it must be 0 or more, a number of path elements")
        return cls(table, level)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> pa.Array:
        """The item ids, in row order."""
        return _flat(self.table["item_id"])

    def extended(self, other: "ItemCatalog") -> "ItemCatalog":
        """This catalog followed by the items of `other`.

        It keeps its own columns, null for new items that lack them; other columns of `other` are left out. InputError
        for ids in both catalogs and for columns of another type.
        """
        columns = {}
        for name in self.table.column_names:
            present = name in other.table.column_names
            kind = self.table[name].type
            columns[name] = _cast(name, other.table[name], kind) if present else pa.nulls(len(other), kind)
        return ItemCatalog.from_table(pa.concat_tables([self.table, pa.table(columns)]), self.category_level)

    def rows(self, ids: pa.Array | pa.ChunkedArray | Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The item row of each id, int32; -1 for an id that is not in the catalog.

        Text matches a numeric id only in its plain form: "7" is item 7, "007" is not.
        """
        if len(ids) == 0:
            return np.empty(0, dtype=np.int32)
        if isinstance(ids, list) and len(ids) <= FEW_IDS and {*map(type, ids)} == {self._id_type}:
            return np.array([self.row_of.get(one, -1) for one in ids], dtype=np.int32)
        try:
            given = _plain(ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids))
            if pa.types.is_boolean(given.type):
                raise pa.ArrowTypeError("they are booleans")
            wanted = given.cast(self.ids.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            raise InputError(
                f"item ids of this catalog are of type {self.ids.type}; the ids given are not: {error}"
            ) from None
        found = np.array(pc.fill_null(pc.index_in(wanted, value_set=self.ids), -1), dtype=np.int32)
        if self._id_type is int and not pa.types.is_integer(given.type) and not pa.types.is_floating(given.type):
            alike = pc.equal(wanted.cast(pa.string()), given.cast(pa.string()))  # "007" is not 7
            found[~np.asarray(pc.fill_null(alike, False))] = -1
        return found

    @cached_property
    def row_of(self) -> dict[Any, int]:
        """The row of every id; for few ids faster than Arrow, which builds a hash table in every call."""
        return {one: row for row, one in enumerate(self.ids.to_pylist())}

    @cached_property
    def lowest_id(self) -> Any:
        """The smallest id."""
        return pc.min(self.ids).as_py()

    @cached_property
    def _id_type(self) -> type:
        return int if pa.types.is_integer(self.ids.type) else str

    @cached_property
    def category_names(self) -> list[str]:
        """The category classes as "A > B > C", in order of their first item."""
        return list(dict.fromkeys(name for name in self._labels if name is not None))

    @cached_property
    def categories_I(self) -> npt.NDArray[np.int32]:  # noqa: N802
        """The category class of every item, -1 for an item without one."""
        index = {name: c for c, name in enumerate(self.category_names)}
        return np.asarray([-1 if name is None else index[name] for name in self._labels], dtype=np.int32)

    @cached_property
    def _labels(self) -> list[str | None]:
        paths = self.table["categories"].to_pylist()
        return [" > ".join(path[: self.category_level]) if path else None for path in paths]

    def texts(self, columns: Sequence[str]) -> list[str]:
        """One text per item: the values of `columns` joined by spaces, "" if all are null."""
        return table_texts(self.table, columns)

    def save(self, path: str | Path) -> None:
        """Write the table as Parquet; the caller must store `category_level`."""
        write_parquet(path, self.table)

    @classmethod
    def load(cls, path: str | Path, category_level: int | None = None) -> "ItemCatalog":
        """The catalog that `save` wrote."""
        return cls.from_table(read_parquet(path), category_level)


def choose_level(paths: Sequence[Sequence[str] | None]) -> int:
    """The shortest path prefix that gives at least 30 classes, else the longest path length; 0 without paths."""
    known = [tuple(path) for path in paths if path]
    deepest = max(map(len, known), default=0)
    for level in range(1, deepest):
        if len({path[:level] for path in known}) >= MIN_CLASSES:
            return level
    return deepest


def table_texts(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """One text per row: the values of `columns` joined by spaces, lists too; nulls are skipped."""
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"text columns {missing} are not in the item table; it has {table.column_names}")
    values = [map(_as_text, table[name].to_pylist()) for name in columns]
    if not values:
        return [""] * int(table.num_rows)
    return [" ".join(filter(None, row)) for row in zip(*values, strict=True)]


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _plain(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The ids without dictionary encoding, string views as strings."""
    ids = _flat(ids)
    ids = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
    return ids.cast(pa.string()) if pa.types.is_string_view(ids.type) else ids


def _with_text_columns(table: pa.Table) -> pa.Table:
    if "item_id" not in table.column_names:
        raise InputError(f"the item table has no column item_id; it has {table.column_names}")
    columns = {"item_id": _plain(table["item_id"])}
    for name, kind in TEXT_COLUMNS.items():
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows, kind)
        elif name == "categories":
            columns[name] = category_paths(table[name], "column categories of the items")
        else:
            columns[name] = _cast(name, table[name], kind)
    others = {name: _flat(table[name]) for name in table.column_names if name not in columns}
    return pa.table(columns | others)


def _cast(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    try:
        return _flat(column.cast(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(f"column {name} of the items has type {column.type} where {kind} was expected") from None


def _check_paths(table: pa.Table) -> None:
    paths = _flat(table["categories"])
    gaps = paths.flatten().is_null()
    if pc.any(gaps).as_py():
        row = pc.list_parent_indices(paths).filter(gaps)[0].as_py()
        item, path = table["item_id"][row].as_py(), paths[row].as_py()
        raise InputError(f"the categories of item {item!r} are {path}; replace or remove the null")


def _check_ids(ids: pa.ChunkedArray) -> None:
    kind = ids.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"item ids are of type {kind}; whole numbers or text were expected")
    if ids.null_count:
        raise InputError(f"{ids.null_count} of {len(ids)} items have no item_id; drop them or add ids")
    if len(pc.unique(ids)) < len(ids):
        repeated = pc.value_counts(ids).to_pylist()
        example = next(entry["values"] for entry in repeated if entry["counts"] > 1)
        raise InputError(f"item_id {example!r} is in several rows of the item table; keep one row per item")
