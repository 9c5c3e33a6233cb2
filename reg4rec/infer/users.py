"""A Parquet file of users, read a part at a time: what can be searched, and what was wrong with the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.data import ItemCatalog, Sequences
from reg4rec.errors import InputError
from reg4rec.infer.histories import flat_lists, known_sequences

__all__ = ["UserFile", "UserPart"]

UNREADABLE = (OSError, pa.ArrowException)


class UserPart(NamedTuple):
    """Some rows of a file: their place in it, the users that can be searched, and `rejected` (row, user_id, reason)."""

    first_row: int
    num_rows: int
    users: pa.Array
    histories: Sequences
    num_unknown: int
    rejected: pa.Table


class UserFile:
    """A Parquet file with a column `items` (lists of item ids, oldest first) and optionally `user_id`.

    Users without ids are numbered from 0 through the whole file; a user may have several rows. Items that the catalog
    does not know are skipped and counted. InputError for a file without such columns; a row with a null, with text
    that is not UTF-8, or with an id that is not of the catalog's type is rejected and the others go on.
    """

    def __init__(self, path: str | Path, catalog: ItemCatalog):
        self.path, self.catalog = path, catalog
        try:
            self.file = pq.ParquetFile(path)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; give a Parquet file with columns user_id and items") from None
        except UNREADABLE as error:
            raise InputError(f"{path} is not a readable Parquet file: {error}") from None
        schema = self.file.schema_arrow
        if "items" not in schema.names:
            raise InputError(f"a table of histories needs a column 'items', found {schema.names}")
        self.has_users = "user_id" in schema.names
        self.num_rows = int(self.file.metadata.num_rows)
        self.user_type = _plain(schema.field("user_id").type) if self.has_users else pa.int64()
        flat, _ = flat_lists(pa.array([], schema.field("items").type))
        try:
            flat.cast(catalog.ids.type)
        except pa.ArrowNotImplementedError:
            raise InputError(f"item ids are {catalog.ids.type} in the catalog, {flat.type} in {path}") from None
        self.rejected_schema = pa.schema({"row": pa.int64(), "user_id": self.user_type, "reason": pa.string()})

    def parts(self, size: int) -> Iterator[UserPart]:
        """All rows in order, `size` at a time."""
        columns = ["user_id", "items"] if self.has_users else ["items"]
        first = 0
        try:
            for batch in self.file.iter_batches(size, columns=columns):
                yield self._part(first, batch)
                first += len(batch)
        except UNREADABLE as error:
            raise InputError(f"{self.path} cannot be read from row {first} on: {error}") from None

    def part(self, first: int, size: int) -> UserPart:
        """The rows from `first` on, `size` at most, out of the row groups that hold them."""
        columns = ["user_id", "items"] if self.has_users else ["items"]
        metadata = self.file.metadata
        ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        begins = np.append(0, ends[:-1])
        groups = np.flatnonzero((ends > first) & (begins < first + size)).tolist()
        skipped = first - int(begins[groups[0]])
        pieces: list[pa.RecordBatch] = []
        try:
            for batch in self.file.iter_batches(size, row_groups=groups, columns=columns):
                pieces.append(batch[skipped : skipped + size])
                skipped = max(0, skipped - len(batch))
                size -= len(pieces[-1])
                if not size:
                    break
        except UNREADABLE as error:
            raise InputError(f"{self.path} cannot be read from row {first} on: {error}") from None
        return self._part(first, pa.Table.from_batches(pieces).combine_chunks().to_batches()[0])

    def _part(self, first: int, batch: pa.RecordBatch) -> UserPart:
        users = pa.array(np.arange(first, first + len(batch)))
        if self.has_users:
            users = batch["user_id"].cast(self.user_type)
        lists = batch["items"]
        reasons: dict[int, str] = {}
        if self._problem(users, lists) is not None:
            for row in range(len(batch)):
                reason = self._problem(users.slice(row, 1), lists.slice(row, 1))
                reasons |= {} if reason is None else {row: reason}
        rejected = {
            "row": [first + row for row in reasons],
            "user_id": pa.array([_known(users.slice(row, 1)) for row in reasons], self.user_type),
            "reason": list(reasons.values()),
        }
        kept = np.setdiff1d(np.arange(len(batch)), list(reasons))
        flat, lengths = flat_lists(lists.take(pa.array(kept)))
        rows = self.catalog.rows(flat)
        return UserPart(
            first, len(batch), users.take(pa.array(kept)), known_sequences(rows, lengths), int((rows < 0).sum()),
            pa.table(rejected, self.rejected_schema),
        )  # fmt: skip

    def _problem(self, users: pa.Array, lists: pa.Array) -> str | None:
        """What is wrong with one of the rows, None if all can be used."""
        if users.null_count:
            return "user_id is null"
        if lists.null_count:
            return "items is null"
        try:
            users.validate(full=True)
            flat, _ = flat_lists(lists)
            flat.validate(full=True)
            flat.cast(self.catalog.ids.type)
        except pa.ArrowInvalid as error:
            return str(error)
        return "items holds a null" if flat.null_count else None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _known(user: pa.Array) -> object:
    """The id of one user, None where it is no valid text."""
    try:
        user.validate(full=True)
        return user[0].as_py()
    except pa.ArrowInvalid:
        return None
