"""The forms in which callers hand over histories, made into item rows."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from reg4rec.data import ItemCatalog, Sequences
from reg4rec.errors import InputError

__all__ = ["allowed_rows", "find_items", "padded", "read_histories"]


def read_histories(histories: Any, catalog: ItemCatalog) -> tuple[list[Any], Sequences]:
    """(user ids, item rows oldest first) of a table, a mapping or a list.

    A polars or Arrow table has a column `items` (lists of item ids) and optionally `user_id`; a mapping goes from
    user id to a list of item ids; a plain list of lists numbers its users from 0. Items that the catalog does not
    know are skipped with one warning that counts them. InputError for anything else.
    """
    users, lists = _split(histories)
    if any(isinstance(items, str | bytes) for items in lists):
        raise InputError("each history must be a list of item ids, oldest first; found a single id (wrap it: [id])")
    try:
        lengths = np.asarray([0 if items is None else len(items) for items in lists], dtype=np.int64)
        flat = [item for items in lists if items is not None for item in items]
    except TypeError:
        raise InputError("each history must be a list of item ids, oldest first; found something else") from None
    rows = catalog.rows(flat)
    known = rows >= 0
    if not known.all():
        examples = [flat[i] for i in np.flatnonzero(~known)[:3]]
        warnings.warn(
            f"reg4rec: {int((~known).sum())} of {len(rows)} history items are not in the catalog and were skipped "
            f"(for example {', '.join(map(repr, examples))})",
            stacklevel=3,
        )
    owner = np.repeat(np.arange(len(lists)), lengths)[known]
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, minlength=len(lists)), out=offsets[1:])
    return users, Sequences(offsets, rows[known])


def find_items(ids: Iterable[Any], catalog: ItemCatalog, role: str) -> npt.NDArray[np.int32]:
    """The item row of each id of the argument called `role`; InputError names ids that the catalog lacks."""
    wanted = list(ids)
    rows = catalog.rows(wanted)
    if len(rows) and rows.min() < 0:
        unknown = [wanted[i] for i in np.flatnonzero(rows < 0)]
        raise InputError(
            f"{role} names {len(unknown)} items that are not in the catalog, for example {unknown[0]!r}; "
            "ids must be spelled and typed as in the items table"
        )
    return rows


def allowed_rows(
    catalog: ItemCatalog, exclude: Iterable[Any] | None, candidates: Iterable[Any] | None
) -> npt.NDArray[np.int32] | None:
    """The item rows that are in `candidates` and not in `exclude` (item ids), ascending; None where all are allowed."""
    if exclude is None and candidates is None:
        return None
    rows = np.arange(len(catalog), dtype=np.int32)
    if candidates is not None:
        rows = np.unique(find_items(candidates, catalog, "candidates"))
    if exclude is not None:
        rows = np.setdiff1d(rows, find_items(exclude, catalog, "exclude"))
    return rows.astype(np.int32)


def padded(sequences: Sequences, fill: int) -> torch.Tensor:
    """(B, L) item rows, int64, oldest first, `fill` at the end of shorter ones."""
    length = int(sequences.lengths.max(initial=0))
    filled = np.arange(length) < sequences.lengths[:, None]
    rows_BL = np.full(filled.shape, fill, dtype=np.int64)
    rows_BL[filled] = sequences.items
    return torch.from_numpy(rows_BL)


def _split(histories: Any) -> tuple[list[Any], Sequence[Any]]:
    if hasattr(histories, "to_arrow"):  # polars, without importing it
        histories = histories.to_arrow()
    if isinstance(histories, pa.Table):
        if "items" not in histories.column_names:
            raise InputError(f"a table of histories needs a column 'items', found {histories.column_names}")
        lists = histories["items"].to_pylist()
        known = "user_id" in histories.column_names
        return (histories["user_id"].to_pylist() if known else list(range(len(lists)))), lists
    if isinstance(histories, Mapping):
        return list(histories), list(histories.values())
    if isinstance(histories, list | tuple):
        if any(isinstance(items, str | bytes) for items in histories):
            raise InputError("histories is a list of lists, one a user; found a list of ids (wrap it: [history])")
        return list(range(len(histories))), histories
    raise InputError(
        f"histories is a table, a mapping or a list of lists of item ids, found {type(histories).__name__}"
    )
