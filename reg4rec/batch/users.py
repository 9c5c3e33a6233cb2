"""Reads the users of a job, a part at a time, with the rows that are rejected and the reasons.

The users are the rows of Parquet files, the users of a dataset, or the users in a table of clicks.
"""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.data import Dataset, ItemCatalog, Sequences
from reg4rec.data.dataset import ITEM_ROWS
from reg4rec.data.fingerprint import fingerprint
from reg4rec.data.hints import left_out
from reg4rec.data.lines import BadLines, file_kind
from reg4rec.data.sources import part_files
from reg4rec.errors import InputError, warn
from reg4rec.recommend.histories import flat_lists, grouped, known_sequences, places_of
from reg4rec.storage import sha256_of

__all__ = ["UserFiles", "UserLists", "UserPart", "Users", "open_users"]

UNREADABLE = (OSError, pa.ArrowException)
MAGIC = b"PAR1"
"""The first bytes of a Parquet file."""


class UserPart(NamedTuple):
    """`num_rows` rows of a file from `first_row` on: the users that can be searched, and the others in `rejected`.

    rejected: a table of row, user_id and reason. num_items: number of items in the histories; num_unknown: number of
    those that are not in the catalog.
    """

    first_row: int
    num_rows: int
    users: pa.Array
    histories: Sequences
    num_items: int
    num_unknown: int
    rejected: pa.Table


def open_users(
    users: str | Path | Dataset,
    catalog: ItemCatalog,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "timestamp",
) -> "Users":
    """The users of a dataset (with whole histories), of Parquet files with a column `items`, or of a table of clicks.

    Parquet: a file, a folder of parts or a pattern, read in the order of the names. Clicks: any file, folder of parts
    or pattern that `read_interactions` takes, with the columns `user`, `item` and `time`; they are read into memory.
    InputError for anything else.
    """
    if isinstance(users, Dataset):
        places = places_of(users.items.ids, catalog.ids)
        histories = Sequences(users.sequences.offsets, places[users.sequences.items])
        return UserLists(users.user_ids, histories, users.card["fingerprint"])
    path = Path(users)
    if (path / "dataset.json").is_file():
        raise InputError(f"{path} is a dataset; give it as --data {path} (in Python, load_dataset({str(path)!r}))")
    if not path.is_file() and not path.is_dir() and not glob.has_magic(str(path)):
        raise InputError(f"{path} is missing; give a Parquet file with columns user_id and items, or a table of clicks")
    files = part_files(path)
    first = files[0]
    names = _parquet_columns(first)
    if ITEM_ROWS in names:
        raise InputError(
            f"{first} belongs to a dataset and contains item rows, not ids; give the dataset, --data {first.parent} "
            f"(in Python, load_dataset({str(first.parent)!r}))"
        )
    if "items" in names:
        return UserFiles(path, files, catalog)
    if names and not {user, item, time or item} <= {*names}:
        raise InputError(
            f"a table of histories needs a column 'items', or a row for each click with {user}, {item} and {time} "
            f"(--user, --item and --time name them); found {names}"
        )
    return _clicks(path, catalog, user, item, time)


def _parquet_columns(path: Path) -> list[str]:
    """The column names of a Parquet file; empty for a file of another kind."""
    with path.open("rb") as file:
        if file_kind(path) != ".parquet" and file.read(len(MAGIC)) != MAGIC:
            return []
    return list(_schema(path).names)


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None


def _shown(kinds: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} of {kind}" for name, kind in kinds.items()) or "no such column"


def _clicks(path: Path, catalog: ItemCatalog, user: str, item: str, time: str | None) -> "UserLists":
    from reg4rec.data.tables import read_log

    bad = BadLines()
    log = read_log(path, user, item, time, bad)
    for sentence in left_out(bad.count, bad.first, bad.nameless):
        warn(sentence)
    users, ids, lengths = grouped(log.to_arrow())
    rows = places_of(ids, catalog.ids)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return UserLists(
        users, Sequences(offsets, rows), fingerprint({"user_id": users}, {"offsets": offsets, "rows": rows}, {})
    )


def _rejected_schema(users: pa.DataType) -> pa.Schema:
    return pa.schema({"row": pa.int64(), "user_id": users, "reason": pa.string()})


class UserLists:
    """Users with histories in memory: item rows, -1 for an item that is not in the catalog."""

    def __init__(self, users: pa.Array, histories: Sequences, fingerprint: str):
        self.users, self.histories, self.fingerprint = users, histories, fingerprint
        self.num_rows = len(users)
        self.rejected_schema = _rejected_schema(users.type)

    def parts(self, size: int) -> Iterator[UserPart]:
        """All users in order, `size` at a time."""
        for first in range(0, self.num_rows, size):
            yield self.part(first, size)

    def part(self, first: int, size: int) -> UserPart:
        """At most `size` users from number `first` on."""
        users = self.users.slice(first, size)
        taken = self.histories.take(np.arange(first, first + len(users)))
        known, unknown = known_sequences(taken.items, taken.lengths), int((taken.items < 0).sum())
        nobody = self.rejected_schema.empty_table()
        return UserPart(first, len(users), users, known, len(taken.items), unknown, nobody)


class UserFiles:
    """Parquet files with a column `items` (lists of item ids, oldest first) and optionally `user_id`, read as one file.

    Users without ids are numbered from 0 across all files; a user may have several rows. Items that are not in the
    catalog are skipped and counted. A row is rejected if it has a null, text that is not UTF-8, or ids of another type
    than the catalog's; ids of another type count as unknown too. `open_users` checks that the first file has these
    columns; InputError if a file's columns have other types. `path`: the name of the files in messages.
    """

    def __init__(self, path: Path, files: Sequence[Path], catalog: ItemCatalog):
        self.path, self.files, self.catalog = path, files, catalog
        schema = _schema(files[0])
        self.has_users = "user_id" in schema.names
        self.columns = ["user_id", "items"] if self.has_users else ["items"]
        kinds = {name: _plain(schema.field(name).type) for name in self.columns}
        for file in files[1:]:
            other = _schema(file)
            found = {name: _plain(other.field(name).type) for name in self.columns if name in other.names}
            if found != kinds:
                raise InputError(
                    f"{file} has {_shown(found)}, but {files[0]} has {_shown(kinds)}; all files need the same columns"
                )
        self.rows_of = [int(pq.read_metadata(file).num_rows) for file in files]
        self.num_rows = sum(self.rows_of)
        self.user_type = kinds.get("user_id", pa.int64())
        flat, _ = flat_lists(pa.array([], schema.field("items").type))
        try:
            if pa.types.is_boolean(flat.type):
                raise pa.ArrowNotImplementedError
            flat.cast(catalog.ids.type)
        except pa.ArrowNotImplementedError:
            raise InputError(f"item ids are {catalog.ids.type} in the catalog, {flat.type} in {path}") from None
        fits = pa.types.is_null(flat.type) or _is_number(flat.type) == _is_number(catalog.ids.type)
        self.misfit = None if fits else f"item ids are {flat.type}, but those of the catalog are {catalog.ids.type}"
        self.rejected_schema = _rejected_schema(self.user_type)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the file; of several files, the fingerprint of their hashes in order."""
        hashes = [sha256_of(file) for file in self.files]
        return hashes[0] if len(hashes) == 1 else fingerprint({}, {}, {"files": hashes})

    def parts(self, size: int, first: int = 0) -> Iterator[UserPart]:
        """All rows from number `first` on, in order, `size` at a time."""
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
        """At most `size` rows from number `first` on; reads only the row groups that contain them."""
        return next(self.parts(size, first))

    def _batches(self, size: int, first: int) -> Iterator[pa.RecordBatch]:
        """The rows from number `first` on, in batches of at most `size`."""
        for path, num_rows in zip(self.files, self.rows_of, strict=True):
            if first < num_rows:
                with pq.ParquetFile(path) as file:
                    yield from self._batches_of(file, size, first)
            first = max(0, first - num_rows)

    def _batches_of(self, file: pq.ParquetFile, size: int, first: int) -> Iterator[pa.RecordBatch]:
        for group in range(file.metadata.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if first >= num_rows:
                first -= num_rows
                continue
            # one group at a time: Arrow cannot read lists of dictionaries across groups
            for batch in file.iter_batches(size, row_groups=[group], columns=self.columns):
                rows = batch[first:]
                first = max(0, first - len(batch))
                if len(rows):
                    yield pa.RecordBatch.from_arrays(
                        [rows[name].cast(_plain(rows[name].type)) for name in self.columns], names=self.columns
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
        misfits = 0 if self.misfit is None else len(flat_lists(lists)[0])
        return UserPart(
            first, len(batch), users.take(pa.array(kept)), known_sequences(rows, lengths), len(rows) + misfits,
            int((rows < 0).sum()) + misfits, pa.table(rejected, self.rejected_schema),
        )  # fmt: skip

    def _problem(self, users: pa.Array, lists: pa.Array) -> str | None:
        """The reason why one of the rows cannot be used; None if all can."""
        if users.null_count:
            return "user_id is null"
        if lists.null_count:
            return "items is null"
        try:
            users.validate(full=True)
            flat, _ = flat_lists(lists)
            flat.validate(full=True)
            if self.misfit is not None and len(flat):
                return self.misfit
            flat.cast(self.catalog.ids.type)
        except pa.ArrowInvalid as error:
            return str(error)
        return "items holds a null" if flat.null_count else None


Users = UserFiles | UserLists


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


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
    """The id of one user; None if it is not valid text."""
    try:
        user.validate(full=True)
        return user[0].as_py()
    except pa.ArrowInvalid:
        return None
