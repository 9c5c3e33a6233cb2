"""Reads histories in any of the forms that callers may pass, as item rows."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.frames import as_table, is_frame
from reg4rec.errors import InputError

__all__ = ["flat_lists", "grouped", "known_sequences", "places_of", "read_histories"]


def read_histories(histories: Any, catalog: ItemCatalog) -> tuple[pa.Array, Sequences]:
    """(user ids, item rows oldest first) of a table, a mapping, lists or a padded matrix.

    * table (pandas, polars, Arrow) with a row for each user: a column `items` (lists of item ids), optionally `user_id`
    * table with a row for each click: `user_id`, `item_id` and optionally `timestamp` (without it, rows are oldest
      first); users come in the order of their first rows
    * mapping: user id -> list of item ids
    * one list for each user: a Python list, an Arrow list array, a polars or pandas series of lists
    * (B, L) matrix of integer ids, padded with negative numbers: numpy, torch, or any DLPack array (CuPy)

    Users without an id are numbered from 0; a history that is None is empty. Items that are not in the catalog are
    skipped with one warning that counts them. InputError for anything else.
    """
    users, flat, lengths = _flattened(histories, catalog)
    rows = catalog.rows(flat)
    known = rows >= 0
    if not known.all():
        examples = pa.array(flat).take(np.flatnonzero(~known)[:3]).to_pylist()
        warnings.warn(
            f"reg4rec: {int((~known).sum())} of {len(rows)} history items are not in the catalog and were skipped "
            f"(for example {', '.join(map(repr, examples))})",
            stacklevel=3,
        )
    return users, known_sequences(rows, lengths)


def known_sequences(rows: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> Sequences:
    """The sequences of the given lengths, concatenated in `rows`, without the rows that are -1 (unknown items)."""
    known = rows >= 0
    if known.all():
        return Sequences(np.concatenate([[0], np.cumsum(lengths)]), rows)
    owner = np.repeat(np.arange(len(lengths)), lengths)[known]
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=len(lengths)), out=offsets[1:])
    return Sequences(offsets, rows[known])


def flat_lists(lists: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """All values of an Arrow array of lists, and the length of each list (0 for a null); InputError for other types."""
    if not (
        pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) or pa.types.is_fixed_size_list(lists.type)
    ):
        raise InputError(f"each history must be a list of item ids, oldest first; the column 'items' is {lists.type}")
    return lists.flatten(), np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)


def places_of(ids: pa.Array, known: pa.Array) -> npt.NDArray[np.int32]:
    """The position of each id in `known`, -1 if it is not there; ids of two types are compared as text."""
    if ids.type != known.type:
        try:
            ids, known = ids.cast(pa.large_string()), known.cast(pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"ids of type {ids.type} cannot be compared with {known.type}: {error}") from None
    return np.array(pc.fill_null(pc.index_in(ids, value_set=known), -1), dtype=np.int32)


def _flattened(histories: Any, catalog: ItemCatalog) -> tuple[pa.Array, Any, npt.NDArray[np.int64]]:
    """(user ids, all item ids, number of items of each user)."""
    if hasattr(histories, "to_arrow"):  # polars, without importing it
        histories = histories.to_arrow()
    elif not isinstance(histories, Mapping) and is_frame(histories):
        histories = as_table(histories)
    elif type(histories).__module__.partition(".")[0] == "pandas" and hasattr(histories, "tolist"):
        histories = histories.tolist()
    if isinstance(histories, pa.Table):
        return _flat_table(histories)
    if isinstance(histories, pa.Array | pa.ChunkedArray):
        return _numbers(len(histories)), *flat_lists(_whole(histories))
    if isinstance(histories, Mapping):
        return _user_ids(list(histories)), *_flat_python(list(histories.values()))
    if isinstance(histories, list | tuple):
        if any(isinstance(items, str | bytes) for items in histories):
            raise InputError("histories must be one list for each user; found a list of ids (wrap it: [history])")
        return _numbers(len(histories)), *_flat_python(histories)
    if isinstance(histories, np.ndarray) or hasattr(histories, "__dlpack__"):
        return _flat_matrix(histories, catalog)
    raise InputError(
        "histories must be a table, a mapping, a list of lists of item ids or a padded matrix of them, found "
        f"{type(histories).__name__}"
    )


def _flat_table(table: pa.Table) -> tuple[pa.Array, pa.Array, npt.NDArray[np.int64]]:
    if "items" in table.column_names:
        lists = flat_lists(_whole(table["items"]))
        known = "user_id" in table.column_names
        return _whole(table["user_id"]) if known else _numbers(len(table)), *lists
    if not {"user_id", "item_id"} <= set(table.column_names):
        raise InputError(
            f"a table of histories needs a column 'items', or 'user_id' and 'item_id' with a row for each click; found "
            f"{table.column_names}"
        )
    return grouped(table)


def grouped(table: pa.Table) -> tuple[pa.Array, pa.Array, npt.NDArray[np.int64]]:
    """(user ids, all item ids, number of items of each user) of a table of clicks, sorted by `timestamp` if present."""
    if table["user_id"].null_count or table["item_id"].null_count:
        raise InputError("some rows of the histories have no user_id or no item_id; remove these rows")
    users = _whole(table["user_id"]).dictionary_encode()
    owners = np.asarray(users.indices)
    keys = (_moments(table["timestamp"]), owners) if "timestamp" in table.column_names else (owners,)
    order = np.lexsort(keys)
    lengths = np.bincount(owners, minlength=len(users.dictionary)).astype(np.int64)
    return users.dictionary, _whole(table["item_id"]).take(pa.array(order)), lengths


def _moments(times: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Times as sortable numbers; InputError if some are missing or are text."""
    kind = times.type
    sortable = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    if times.null_count or not sortable or (pa.types.is_floating(kind) and pc.any(pc.is_nan(times)).as_py()):
        raise InputError(
            f"the column timestamp of the histories is {kind} with {times.null_count} missing values; "
            "give numbers, dates or timestamps"
        )
    return np.asarray(_whole(times))


def _flat_python(lists: Sequence[Any]) -> tuple[list[Any], npt.NDArray[np.int64]]:
    if any(isinstance(items, str | bytes) for items in lists):
        raise InputError("each history must be a list of item ids, oldest first; found a single id (wrap it: [id])")
    try:
        lengths = np.asarray([0 if items is None else len(items) for items in lists], dtype=np.int64)
        return [item for items in lists if items is not None for item in items], lengths
    except TypeError:
        raise InputError("each history must be a list of item ids, oldest first; found something else") from None


def _flat_matrix(matrix: Any, catalog: ItemCatalog) -> tuple[pa.Array, npt.NDArray[Any], npt.NDArray[np.int64]]:
    ids_BL = matrix if isinstance(matrix, np.ndarray) else torch.from_dlpack(matrix).cpu().numpy()
    if ids_BL.ndim != 2 or ids_BL.dtype.kind not in "iu":
        raise InputError(
            f"a matrix of histories must be (users, items) of integers, found {ids_BL.shape} {ids_BL.dtype}"
        )
    if not pa.types.is_integer(catalog.ids.type):
        raise InputError(
            f"a matrix of histories contains item ids, but those of the catalog are {catalog.ids.type}; give lists"
        )
    if catalog.lowest_id < 0:
        raise InputError(
            f"a matrix of histories is padded with negative numbers, but the catalog has negative ids such as "
            f"{catalog.lowest_id}; give one list of ids for each user"
        )
    return _numbers(len(ids_BL)), ids_BL[ids_BL >= 0], (ids_BL >= 0).sum(1)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _numbers(count: int) -> pa.Array:
    return pa.array(np.arange(count))


def _user_ids(users: list[Any]) -> pa.Array:
    try:
        return pa.array(users)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"user ids must be of one type: {error}") from None
