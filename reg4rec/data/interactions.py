"""Datasets from tables of interactions and items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.events import Kinds, check_weights
from reg4rec.data.frames import as_table, is_frame
from reg4rec.data.hints import card_warnings, matrix_hints
from reg4rec.data.lines import BadLines, file_kind
from reg4rec.data.matrices import KeyedMatrix, Matrix, check_matrix, match_rows, read_matrix
from reg4rec.data.prepared import read_sequence_log
from reg4rec.data.sequences import Sequences
from reg4rec.data.sources import part_files
from reg4rec.errors import InputError, warn
from reg4rec.forks import check_polars

if TYPE_CHECKING:
    import polars as pl

__all__ = ["assemble", "k_core", "read_interactions"]

Int64 = npt.NDArray[np.int64]


def read_interactions(
    interactions: Any,
    items: Any = None,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "timestamp",
    event: str | None = None,
    events: Mapping[Any, float] | None = None,
    title: str | None = None,
    brand: str | None = None,
    categories: str | None = None,
    items_id: str | None = None,
    min_interactions: int = 1,
    clicked_only: bool = False,
    vectors: Mapping[str, Matrix] | None = None,
    name: str | None = None,
    max_malformed: int = 10,
) -> Dataset:
    """A dataset from Parquet, CSV, TSV, JSONL or RecBole files (text files may be gzipped), or lists of items (.txt).

    Each source can also be a folder or a pattern ("clicks/part-*.csv") of such files, or a table: a pandas or polars
    DataFrame, an Arrow table, a dictionary of columns. A .txt file has lines `user item item ...`, oldest first.

    user, item, time: columns of the interactions; with `time=None` the rows must be oldest first.
    event, events: a column with the kind of event, and the weight of each kind as a training target, for example
    {"purchase": 1, "view": 0.2}; kinds of weight 0 are only history, and rows of unlisted kinds are left out.
    title, brand, categories: columns of the items, by default those of the same name; categories are lists, or text
    separated by "|" or ">". items_id: their id column, by default `item`, else "item_id".
    vectors: Parquet files keyed by item id, or matrices and .npy files with rows in the order of the items table.
    min_interactions: above 1, users and items with fewer are removed until none is left (k-core).
    clicked_only: leaves out described items without interactions.

    Equal times keep the order of the file. Repeated rows (user, item, time; the heaviest kind stays), rows without a
    user or item, and up to `max_malformed` unreadable lines are left out and counted in the card. User and item rows
    follow the sorted ids. An item that is not described gets no text and zero vectors. InputError for missing columns,
    times or kinds, more malformed lines, or if no interaction is left.
    """
    check_polars()
    from reg4rec.data.tables import read_items_table, read_log

    weights = None if events is None else check_weights(events)
    if event is None and weights is not None:
        raise InputError("events gives weights to kinds, but no column of kinds is named; name it by event=")
    bad, log_name = BadLines(max_malformed), _name_of(interactions)
    if not is_frame(interactions) and file_kind((files := part_files(Path(interactions)))[0]) == ".txt":
        if event is not None:
            raise InputError(f"{files[0]} has lists of items, without a column {event}; give a table to use event=")
        log = read_sequence_log(files, bad)
    else:
        log = read_log(interactions, user, item, time, bad, event, weights)
    described = None if items is None else read_items_table(items, item, title, brand, categories, bad, items_id)
    matrices = {key: read_matrix(key, matrix, items_id, item) for key, matrix in (vectors or {}).items()}
    card = {"source": {"interactions": log_name, "items": None if items is None else _name_of(items)}}
    name = name or ("" if is_frame(interactions) else log_name).partition(".")[0].strip("*?-_ ") or "interactions"
    return assemble(name, log, described, min_interactions, matrices, card, bad, clicked_only, weights)


def _name_of(source: Any) -> str:
    """The name of a source in the card; InputError if it is neither a path nor a table."""
    if isinstance(source, str | Path):
        return Path(source).name
    return f"{type(source).__name__} of {len(as_table(source)):,} rows"


def assemble(
    name: str,
    log: pl.DataFrame,
    described: pl.DataFrame | None,
    min_interactions: int,
    matrices: Mapping[str, KeyedMatrix | npt.ArrayLike],
    card: dict[str, Any],
    bad: BadLines,
    clicked_only: bool = True,
    weights: dict[str, float] | None = None,
) -> Dataset:
    """A dataset from a log (`user_id`, `item_id`, optional `timestamp`) and an item table with `item_id`.

    With `weights` by kind, the log's column `kind` has the rows of the kinds in `weights`.
    """
    import polars as pl

    if min_interactions < 1:
        raise InputError(f"min_interactions is {min_interactions}; give 1 or more")
    if described is not None and described["item_id"].dtype != log["item_id"].dtype:
        log, described = (table.with_columns(pl.col("item_id").cast(pl.String)) for table in (log, described))
    all_events = _events(log)
    _check_described(described, all_events.item_ids)
    events, before, dropped = _select(all_events, min_interactions)
    kept_users, users = np.unique(events.users, return_inverse=True)
    kept_items, items = np.unique(events.items, return_inverse=True)
    item_ids = events.item_ids.take(pa.array(kept_items))
    unclicked = 0
    if described is not None and not clicked_only:
        whole = _arrow(pl.concat([log["item_id"], described["item_id"]]).unique().sort())
        before["items"] = len(whole)
        if min_interactions == 1:
            unclicked = len(whole) - len(item_ids)
            items = np.asarray(pc.index_in(item_ids, value_set=whole), dtype=np.int64)[items]
            item_ids = whole
    rows = _described_rows(described, item_ids)
    aligned = {key: _aligned(key, matrix, described, rows, item_ids) for key, matrix in matrices.items()}
    offsets, order = _by_user(users, events.times, len(kept_users))
    facts: dict[str, Any] = {
        "items_not_described": int((rows < 0).sum()),
        "items_never_clicked": unclicked,
        "before": before,
        "dropped": dropped,
        "rows_without_ids": bad.nameless,
        "malformed_lines": {"count": bad.count, "first": bad.first},
        "min_interactions": min_interactions,
        "order": "as in the file" if events.times is None else "by timestamp, ties in file order",
        "hints": list(dict.fromkeys(bad.hints + matrix_hints(list(matrices)))),
    }
    if weights is not None:
        facts["rows_of_other_kinds"] = bad.other_kinds
    if aligned:
        facts["vectors"] = {key: report for key, (_, report) in aligned.items() if report}
    dataset = Dataset.build(
        name,
        events.user_ids.take(pa.array(kept_users)),
        Sequences(offsets, items[order].astype(np.int32)),
        ItemCatalog.from_table(_item_table(described, item_ids, rows)),
        {key: values for key, (values, _) in aligned.items()},
        card | facts,
        None if events.times is None else events.times[order],
        kinds=None if weights is None or events.kinds is None else Kinds(weights, events.kinds[order]),
    )
    for sentence in card_warnings(dataset.card):
        warn(sentence)
    return dataset


def _check_described(described: pl.DataFrame | None, item_ids: pa.Array) -> None:
    if described is None or not len(item_ids) or (_described_rows(described, item_ids) >= 0).any():
        return
    listed = f"which has {described['item_id'][0]!r}" if len(described) else "which is empty"
    raise InputError(
        f"the items file describes no item of the interactions, for example not {item_ids[0].as_py()!r}, {listed}; "
        "ids must be the same in both files"
    )


class Events(NamedTuple):
    """Interactions with users and items as rows of the sorted ids."""

    users: Int64
    items: Int64
    times: npt.NDArray[Any] | None
    user_ids: pa.Array
    item_ids: pa.Array
    kinds: npt.NDArray[np.uint8] | None

    def only(self, keep: npt.NDArray[Any]) -> Events:
        times, kinds = (None if one is None else one[keep] for one in (self.times, self.kinds))
        return self._replace(users=self.users[keep], items=self.items[keep], times=times, kinds=kinds)


def _events(log: pl.DataFrame) -> Events:
    (user_ids, users), (item_ids, items) = (_codes(log[name]) for name in ("user_id", "item_id"))
    times = log["timestamp"].to_numpy() if "timestamp" in log.columns else None
    kinds = log["kind"].to_numpy() if "kind" in log.columns else None
    return Events(users, items, times, user_ids, item_ids, kinds)


def _codes(ids: pl.Series) -> tuple[pa.Array, Int64]:
    values = _arrow(ids.unique().sort())
    return values, np.asarray(pc.index_in(_arrow(ids), value_set=values), dtype=np.int64)


def _arrow(series: pl.Series) -> pa.Array:
    array = series.to_arrow()
    return array if pa.types.is_integer(array.type) else array.cast(pa.string())


def _select(events: Events, min_interactions: int) -> tuple[Events, dict[str, int], dict[str, int]]:
    """The events of the k-core without repetitions, the counts before the k-core, and the numbers dropped."""
    num_rows = len(events.users)
    if events.times is not None:
        events = events.only(_first_of_equals(events))
    before = {"users": len(events.user_ids), "items": len(events.item_ids), "interactions": len(events.users)}
    keep = k_core(events.users, events.items, min_interactions)
    if not keep.any():
        raise InputError(
            f"no interaction is left with at least {min_interactions} per user and item; there were {before}; "
            "lower min_interactions or bring more data"
        )
    dropped = {"duplicates": num_rows - len(events.users), "below_min_interactions": int((~keep).sum())}
    return events.only(keep), before, dropped


def _first_of_equals(events: Events) -> npt.NDArray[np.bool_]:
    """A mask that keeps one of the rows with equal user, item and time: the first of the heaviest kind."""
    columns = [column for column in (events.kinds, events.items, events.times, events.users) if column is not None]
    order = np.lexsort(columns)
    again = np.ones(max(len(order) - 1, 0), dtype=np.bool_)
    for column in columns[-3:]:
        column_sorted = column[order]
        again &= column_sorted[1:] == column_sorted[:-1]
    first = np.ones(len(order), dtype=np.bool_)
    first[order[1:][again]] = False
    return first


def _by_user(users: Int64, times: npt.NDArray[Any] | None, num_users: int) -> tuple[Int64, Int64]:
    """Offsets of the users, and the order of rows by user and time; ties keep their order."""
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=offsets[1:])
    return offsets, np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))


def _described_rows(described: pl.DataFrame | None, item_ids: pa.Array) -> Int64:
    """The row of each id in the items file, -1 if it has none."""
    if described is None:
        return np.full(len(item_ids), -1, dtype=np.int64)
    found = pc.index_in(item_ids, value_set=_arrow(described["item_id"]))
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def _item_table(described: pl.DataFrame | None, item_ids: pa.Array, rows: Int64) -> pa.Table:
    if described is None:
        return pa.table({"item_id": item_ids})
    table = described.to_arrow().take(pa.array(rows, mask=rows < 0))
    return table.set_column(table.column_names.index("item_id"), "item_id", item_ids)


def _aligned(
    key: str, matrix: KeyedMatrix | npt.ArrayLike, described: pl.DataFrame | None, rows: Int64, item_ids: pa.Array
) -> tuple[npt.NDArray[Any], dict[str, int]]:
    """The matrix in the order of `item_ids`; for a keyed one also the counts of unmatched rows."""
    if isinstance(matrix, KeyedMatrix):
        return match_rows(matrix, item_ids)
    if described is None:
        raise InputError(f"matrix {key!r} needs an items file with the same order of rows; give items=")
    checked = check_matrix(key, matrix, len(described))
    return np.where(rows[:, None] >= 0, checked[rows], np.float32(0)), {}


def k_core(users: Int64, items: Int64, minimum: int) -> npt.NDArray[np.bool_]:
    """A mask of the interactions that remain after users and items with fewer than `minimum` are removed repeatedly.

    `users` and `items` are row numbers, one pair per interaction.
    """
    left = np.arange(len(users))
    while len(left):
        some_users, some_items = users[left], items[left]
        stays = (np.bincount(some_users)[some_users] >= minimum) & (np.bincount(some_items)[some_items] >= minimum)
        if stays.all():
            break
        left = left[stays]
    keep = np.zeros(len(users), dtype=np.bool_)
    keep[left] = True
    return keep
