"""Matrices of item vectors, one row per item: from memory, from a .npy file, or from Parquet keyed by item id."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.parquet import read_parquet
from reg4rec.errors import InputError

__all__ = ["KeyedMatrix", "Matrix", "check_matrix", "load_matrix", "read_matrix"]

Float32 = npt.NDArray[np.float32]


class KeyedMatrix(NamedTuple):
    """A matrix (n, V) with the item id of each row."""

    ids: pa.Array
    values: npt.NDArray[Any]


Matrix = str | Path | npt.ArrayLike
"""A path, or an array with rows in the order of the items."""


def check_matrix(name: str, matrix: npt.ArrayLike, num_rows: int) -> Float32:
    """`matrix` as float32 (num_rows, V); InputError for another shape, non-numbers and values that are not finite."""
    try:
        array = np.asarray(matrix)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"matrix {name!r} is not a matrix: {error}") from None
    if array.ndim != 2 or len(array) != num_rows or not array.shape[1]:
        raise InputError(f"matrix {name!r} has shape {array.shape} where ({num_rows}, V) was expected, a row per item")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"matrix {name!r} has dtype {array.dtype} where real numbers were expected")
    with np.errstate(over="ignore"):
        checked = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(bad):
        raise InputError(
            f"matrix {name!r} has NaN or infinity (as float32) in {len(bad)} rows, the first is row {bad[0]}"
        )
    return checked


def load_matrix(path: Path) -> npt.NDArray[Any]:
    """The array of a .npy file; InputError if it is missing, damaged or a pickle."""
    try:
        if path.suffix != ".npy":
            raise ValueError("it does not end in .npy")
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError, MemoryError, OverflowError, SyntaxError) as error:
        raise InputError(f"{path} is not a readable .npy matrix: {error}") from None


def read_matrix(name: str, matrix: Matrix, *ids: str | None) -> KeyedMatrix | npt.ArrayLike:
    """Read a matrix: a Parquet file gives a keyed matrix, a .npy file its array; an array is returned unchanged.

    The ids of a Parquet file are in the first column of `ids` that it has, else in `item_id`.
    """
    if not isinstance(matrix, str | Path):
        return matrix
    path = Path(matrix)
    return _read_keyed(name, path, ids) if path.suffix == ".parquet" else load_matrix(path)


def _read_keyed(name: str, path: Path, ids_names: Sequence[str | None]) -> KeyedMatrix:
    """The matrix in a Parquet file with an id column and one column of lists of equal length."""
    table = read_parquet(path)
    names = [column for column in dict.fromkeys((*ids_names, "item_id")) if column is not None]
    item = next((column for column in names if column in table.column_names), None)
    if item is None:
        raise InputError(f"{path} has no column {' or '.join(names)}; it has {', '.join(table.column_names)}")
    lists = [column for column in table.column_names if _is_list(table.schema.field(column).type)]
    if len(lists) != 1:
        raise InputError(
            f"{path} of matrix {name!r} has {len(lists)} columns of lists ({', '.join(lists) or 'none'}) where one "
            f"was expected besides {item}"
        )
    ids, rows = table[item].combine_chunks(), table[lists[0]].combine_chunks()
    if ids.null_count or rows.null_count or len(pc.unique(ids)) < len(ids):
        raise InputError(f"{path} of matrix {name!r} has null or repeated ids, or null lists; keep one row per item")
    widths = np.unique(np.asarray(pc.list_value_length(rows)))
    if len(widths) != 1 or not widths[0]:
        raise InputError(f"{path} of matrix {name!r} has lists of lengths {widths[:5].tolist()}; they must be equal")
    values = rows.flatten()
    if values.null_count or not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{path} of matrix {name!r} has nulls or {values.type} in its lists; numbers were expected")
    return KeyedMatrix(ids, np.asarray(values).reshape(len(ids), int(widths[0])))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def match_rows(matrix: KeyedMatrix, item_ids: pa.Array) -> tuple[npt.NDArray[Any], dict[str, int]]:
    """Rows in the order of `item_ids` (zeros for missing ones), and the numbers of missing and unused rows."""
    given = matrix.ids
    if given.type != item_ids.type:
        given, item_ids = _as_text(given), _as_text(item_ids)
    found = np.asarray(pc.fill_null(pc.index_in(item_ids, value_set=given), -1), dtype=np.int64)
    missing = found < 0
    if missing.all():
        raise InputError(
            f"no id of the vectors is an item id: the vectors have ids such as {given[0].as_py()!r}, the items "
            f"{item_ids[0].as_py()!r}"
            if len(given)
            else "the file of vectors has no rows"
        )
    rows = np.where(missing[:, None], 0, matrix.values[found])
    return rows, {"items_missing": int(missing.sum()), "rows_unused": len(given) - int((~missing).sum())}


def _as_text(ids: pa.Array) -> pa.Array:
    try:
        return ids.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(f"ids of type {ids.type} do not match the items of the dataset; use text or numbers") from None
