"""Filters: which items may be recommended, to all users or to each user."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.fingerprint import fingerprint
from reg4rec.data.hints import left_out
from reg4rec.data.lines import BadLines
from reg4rec.errors import InputError, warn
from reg4rec.recommend.histories import known_sequences, places_of

__all__ = ["FilterFiles", "OwnItems", "Unknown", "allowed_of", "allowed_rows", "find_items", "split_filters"]

Int32 = npt.NDArray[np.int32]
Unknown = Literal["ignore", "error"]


class OwnItems(NamedTuple):
    """The items that each user may get: only the user's `candidates` (None: all items), and none of `exclude`.

    Each is a sequence of item rows for each user.
    """

    candidates: Sequences | None
    exclude: Sequences | None

    @property
    def num_users(self) -> int:
        return max(len(sequences) for sequences in self if sequences is not None)

    def take(self, users: npt.ArrayLike) -> "OwnItems":
        """The lists of these users (rows), in that order."""
        return OwnItems(*(None if sequences is None else sequences.take(users) for sequences in self))

    def batches(self, size: int) -> Iterator["OwnItems"]:
        """All users in order, at most `size` at a time."""
        for first in range(0, self.num_users, size):
            yield self.take(np.arange(first, min(first + size, self.num_users)))

    def allowed(self, num_items: int) -> Tensor:
        """(B, I), bool: whether each user may get each item."""
        allowed_BI = torch.full((self.num_users, num_items), self.candidates is None)
        for sequences, may in ((self.candidates, True), (self.exclude, False)):
            if sequences is not None:
                allowed_BI[torch.from_numpy(sequences.owners()), torch.from_numpy(sequences.items).long()] = may
        return allowed_BI


def find_items(ids: Iterable[Any], catalog: ItemCatalog, role: str, unknown: Unknown = "error") -> Int32:
    """The item rows of some item ids; `role` is the name of the argument in messages.

    Ids that are not in the catalog raise an InputError. With `unknown` "ignore" they are left out, with a warning if
    none of the ids is in the catalog.
    """
    wanted = _listed(ids, role)
    return _known(catalog.rows(wanted), wanted, role, unknown)


def allowed_rows(
    catalog: ItemCatalog,
    exclude: Iterable[Any] | None,
    candidates: Iterable[Any] | None,
    unknown: Unknown = "ignore",
) -> Int32 | None:
    """The item rows that are in `candidates` and not in `exclude` (item ids), ascending; None if all are allowed."""
    return allowed_of(
        len(catalog),
        None if candidates is None else find_items(candidates, catalog, "candidates", unknown),
        None if exclude is None else find_items(exclude, catalog, "exclude", unknown),
    )


def split_filters(
    catalog: ItemCatalog, users: pa.Array, exclude: Any, candidates: Any, unknown: Unknown
) -> tuple[Int32 | None, OwnItems | None]:
    """The item rows that filters for all users allow (None: all), and the filters by user (None without a mapping).

    InputError for a user without an entry in a mapping of candidates, and as in `find_items`.
    """
    own_candidates, own_exclude = isinstance(candidates, Mapping), isinstance(exclude, Mapping)
    shared = allowed_rows(catalog, None if own_exclude else exclude, None if own_candidates else candidates, unknown)
    if not own_candidates and not own_exclude:
        return shared, None
    ids = users.to_pylist()
    missing = [user for user in ids if user not in candidates] if own_candidates else []
    if missing:
        raise InputError(
            f"candidates has no entry for {len(missing)} users, for example {missing[0]!r}; add a list for each user"
        )
    return shared, OwnItems(
        _lists_of(catalog, ids, candidates, "candidates", unknown) if own_candidates else None,
        _lists_of(catalog, ids, exclude, "exclude", unknown) if own_exclude else None,
    )


class FilterFiles:
    """The filters of a batch job, read from files (see `docs/recommend.md`). InputError for files without item ids.

    Ids are compared as text; those that are not in the catalog are left out. `rows`: item rows that the filters for all
    users allow; None if there are only filters by user or none.
    """

    def __init__(self, catalog: ItemCatalog, candidates: str | Path | None, exclude: str | Path | None):
        self.candidates = None if candidates is None else _read_filter(Path(candidates), catalog, "candidates")
        self.exclude = None if exclude is None else _read_filter(Path(exclude), catalog, "exclude")
        shared = [None if one is None or one.users is not None else one.rows.items for one in self._both]
        self.rows = allowed_of(len(catalog), *shared)
        self.fingerprints = {
            name: None if one is None else one.fingerprint()
            for name, one in zip(("candidates", "exclude"), self._both, strict=True)
        }

    @property
    def _both(self) -> "tuple[_Listed | None, _Listed | None]":
        return self.candidates, self.exclude

    def own(self, users: pa.Array) -> OwnItems | None:
        """The filters of these users from files with a column `user_id`; a user without a row has an empty list.

        None if no file has that column.
        """
        if all(one is None or one.users is None for one in self._both):
            return None
        return OwnItems(*(None if one is None or one.users is None else one.of(users) for one in self._both))


class _Listed(NamedTuple):
    """Item rows of a file: one list for all users if `users` is None, else a list for each of `users`."""

    users: pa.Array | None
    rows: Sequences

    def of(self, users: pa.Array) -> Sequences:
        """The list of each user; empty for a user who is not in the file."""
        assert self.users is not None
        places = places_of(users, self.users)
        found = self.rows.take(np.maximum(places, 0)) if len(self.rows) else Sequences.from_lists([[]] * len(places))
        return found.last(np.where(places >= 0, found.lengths, 0))

    def fingerprint(self) -> str:
        columns = {} if self.users is None else {"user_id": self.users}
        return fingerprint(columns, {"offsets": self.rows.offsets, "items": self.rows.items}, {})


def _read_filter(path: Path, catalog: ItemCatalog, role: str) -> _Listed:
    from reg4rec.data.tables import read_item_list

    bad = BadLines()
    table = read_item_list(path, bad).to_arrow().combine_chunks()
    for sentence in left_out(bad.count, bad.first, bad.nameless):
        warn(sentence)
    ids = table["item_id"].combine_chunks()
    rows = places_of(ids, catalog.ids)
    if role == "candidates" and not (rows >= 0).any():
        example = f" (it lists for example {ids[0].as_py()!r})" if len(ids) else ""
        raise InputError(
            f"the file of candidates {path} lists no item of the catalog{example}; ids must be spelled as in the items "
            f"table, such as {catalog.ids[0].as_py()!r}"
        )
    kept, known = _known(rows, ids, f"exclude ({path})", "ignore"), rows >= 0
    if "user_id" not in table.column_names:
        return _Listed(None, Sequences.from_lists([np.unique(kept)]))
    users = table["user_id"].combine_chunks().dictionary_encode()
    owners = np.asarray(users.indices, dtype=np.int64)[known]
    lengths = np.bincount(owners, minlength=len(users.dictionary)).astype(np.int64)
    return _Listed(users.dictionary, known_sequences(kept[np.lexsort((kept, owners))], lengths))


def allowed_of(num_items: int, candidates: Int32 | None, exclude: Int32 | None) -> Int32 | None:
    """`allowed_rows` for item rows."""
    if candidates is None and exclude is None:
        return None
    rows = np.arange(num_items, dtype=np.int32) if candidates is None else np.unique(candidates)
    return rows if exclude is None else np.setdiff1d(rows, exclude).astype(np.int32)


def _lists_of(
    catalog: ItemCatalog, users: list[Any], lists: Mapping[Any, Any], role: str, unknown: Unknown
) -> Sequences:
    """The item rows of each user's list of ids, without ids that are not in the catalog."""
    own = [_listed(lists.get(user, ()), role) for user in users]
    flat = [one for ids in own for one in ids]
    rows = catalog.rows(flat)
    _known(rows, flat, role, unknown)
    return known_sequences(rows, np.asarray([len(ids) for ids in own], dtype=np.int64))


def _listed(ids: Any, role: str) -> list[Any]:
    """The ids as a list; InputError for a single id."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"{role} must be a list of item ids, found {ids!r}; wrap it: [{ids!r}]")
    return ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)


def _known(rows: Int32, ids: Any, role: str, unknown: Unknown) -> Int32:
    """The rows that are not -1 (unknown). InputError for any -1 if `unknown` is "error", else a warning if all are."""
    if unknown not in get_args(Unknown):
        raise InputError(f"unknown must be one of {get_args(Unknown)}, found {unknown!r}")
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return rows
    example = ids[int(missing[0])]
    example = example.as_py() if isinstance(example, pa.Scalar) else example
    if unknown == "error":
        raise InputError(
            f"{role} names {len(missing)} items that are not in the catalog, for example {example!r}; "
            "ids must be spelled and typed as in the items table"
        )
    if len(missing) == len(rows):
        warn(
            f"{role} names {len(rows)} items, none of which is in the catalog, for example {example!r}; "
            "ids must be spelled and typed as in the items table"
        )
    return rows[rows >= 0]
