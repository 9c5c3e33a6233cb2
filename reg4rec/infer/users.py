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
            if pa.types.is_boolean(flat.type):
                raise pa.ArrowNotImplementedError
            flat.cast(catalog.ids.type)
        except pa.ArrowNotImplementedError:
            raise InputError(f"item ids are {catalog.ids.type} in the catalog, {flat.type} in {path}") from None
        self.rejected_schema = pa.schema({"row": pa.int64(), "user_id": self.user_type, "reason": pa.string()})

    def parts(self, size: int, first: int = 0) -> Iterator[UserPart]:
        """All rows from `first` on in order, `size` at a time."""
        pieces: list[pa.RecordBatch] = []
        try:
            for batch in self._batches(size, first):
                missing = size - sum(map(len, pieces))
                pieces.append(batch[:missing])
                if len(batch) < missing:
                    continue
                yield self._part(first, _joined(pieces))
                first += size
                pieces = [batch[missing:]] if len(batch) > missing else []
        except UNREADABLE as error:
            raise InputError(f"{self.path} cannot be read from row {first} on: {error}") from None
        if pieces:
            yield self._part(first, _joined(pieces))

    def part(self, first: int, size: int) -> UserPart:
        """The rows from `first` on, `size` at most, out of the row groups that hold them."""
        return next(self.parts(size, first))

    def _batches(self, size: int, first: int) -> Iterator[pa.RecordBatch]:
        """The rows from `first` on, in batches of `size` at most that no reader of dictionaries cuts differently."""
        columns = ["user_id", "items"] if self.has_users else ["items"]
        for group in range(self.file.metadata.num_row_groups):
            num_rows = self.file.metadata.row_group(group).num_rows
            if first >= num_rows:
                first -= num_rows
                continue
            # several groups at once give no lists of dictionaries
            for batch in self.file.iter_batches(size, row_groups=[group], columns=columns):
                rows = batch[first:]
                first = max(0, first - len(batch))
                if len(rows):
                    yield pa.RecordBatch.from_arrays(
                        [column.cast(_plain(column.type)) for column in rows.columns], names=columns
                    )

    def _part(self, first: int, batch: pa.RecordBatch) -> UserPart:
        users = pa.array(np.arange(first, first + len(batch)))
        if self.has_users:
            users = batch["user_id"]
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
    """The type without dictionaries."""
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pieces[0] if len(pieces) == 1 else pa.Table.from_batches(pieces).combine_chunks().to_batches()[0]


def _known(user: pa.Array) -> object:
    """The id of one user, None where it is no valid text."""
    try:
        user.validate(full=True)
        return user[0].as_py()
    except pa.ArrowInvalid:
        return None
