"""Typed columns from the user's tables: a file, a folder of parts or a table in memory.

All text files are read in the same steps: UTF-8 content, then records of text (`rows` for separated files, one object
per line for JSON), then typed columns (`values`, `categories`).
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from reg4rec.data.atomic import ATOMIC, atomic_paths, atomic_values
from reg4rec.data.categories import category_paths
from reg4rec.data.frames import arrow_column, as_table
from reg4rec.data.hints import event_hints, flat_path_hints, unused_columns
from reg4rec.data.lines import BadLines, file_kind, is_utf8, numbered_lines, parse_json, read_text, whole_text
from reg4rec.data.rows import Layout, read_header, tidy_rows
from reg4rec.data.sources import part_files
from reg4rec.data.values import as_ids, as_kinds, as_times, plain_column
from reg4rec.errors import InputError

__all__ = ["known_ids", "read_item_list", "read_items_table", "read_log"]

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
ID_COLUMNS = ("user_id", "item_id")
NO_KIND, SHOWN_KINDS = "(none)", 20
TEXT_NAMES = ("title", "brand", "categories")
Choice = Callable[[Path, list[str]], list[str]]
"""Chooses the columns of a file to read; InputError if one is missing."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, ValueError)


def read_log(
    source: Any,
    user: str,
    item: str,
    time: str | None,
    bad: BadLines,
    event: str | None = None,
    weights: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """The interactions of a source: columns `user_id`, `item_id` and, unless `time` is None, `timestamp`.

    With a column `event`, column `kind` has the row of each interaction's kind in `weights`. Rows without a user or
    item, or of a kind without a weight, are left out and counted in `bad`.
    """
    keys = [name for name in (user, item, time, event) if name is not None]
    table = read_table(source, bad, keys, "--user, --item and --time (user=, item=, time=) name them")
    where, separated = _called(source), _kind(source) in SEPARATORS
    columns = {"user_id": as_ids(where, table[user], separated)}
    columns["item_id"] = as_ids(where, table[item], separated)
    columns |= {} if event is None else {"kind": as_kinds(where, table[event])}
    log = pl.DataFrame(columns | ({"timestamp": table[time]} if time is not None else {}))
    log = known_ids(log, bad)
    if not len(log):
        raise InputError(f"{where} has no interaction" + (" with a user and an item" if len(table) else ""))
    if event is not None:
        log = _known_kinds(f"column {event} of {where}", log, weights, bad)
    return log if time is None else log.with_columns(as_times(where, log["timestamp"].alias(time)).alias("timestamp"))


def known_ids(log: pl.DataFrame, bad: BadLines) -> pl.DataFrame:
    """The rows with an item and, if there is a user column, a user; the others are counted in `bad`."""
    bad.nameless = {name: n for name in log.columns if name in ID_COLUMNS and (n := log[name].null_count())}
    return log.drop_nulls([*bad.nameless]) if bad.nameless else log


def _known_kinds(column: str, log: pl.DataFrame, weights: Mapping[str, float] | None, bad: BadLines) -> pl.DataFrame:
    """The rows of kinds with a weight, with `kind` as a row of `weights`; the others are counted in `bad`."""
    counts = [(kind or NO_KIND, n) for kind, n in log["kind"].value_counts().iter_rows()]
    found = dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))
    held = ", ".join(f"{kind} ({n:,})" for kind, n in [*found.items()][:SHOWN_KINDS])
    held += ", ..." * (len(found) > SHOWN_KINDS)
    if weights is None:
        raise InputError(
            f"{column} has kinds of events, but none has a weight; give some of these one by "
            f"events={{KIND: WEIGHT}} (--events KIND=WEIGHT ...): {held}"
        )
    if absent := [kind for kind in weights if kind not in found]:
        raise InputError(f"{column} has no {', '.join(absent)}, which events (--events) lists; it has {held}")
    bad.other_kinds = {kind: n for kind, n in found.items() if kind not in weights}
    rows = log["kind"].replace_strict(list(weights), list(range(len(weights))), default=None, return_dtype=pl.UInt8)
    return log.with_columns(rows).drop_nulls("kind")


def read_item_list(source: Path, bad: BadLines) -> pl.DataFrame:
    """The column `item_id` of a source and, if present, `user_id`; a .txt file has one item id per line.

    Rows without an id are left out and counted in `bad`.
    """
    kind = _kind(source)
    if kind == ".txt":
        ids = []
        for file in part_files(source):
            for number, line in numbered_lines(file):
                if is_utf8(line):
                    ids.append(line.decode())
                else:
                    bad.add(file, number, "is not UTF-8")
        table = pl.DataFrame({"item_id": ids}, schema={"item_id": pl.String})
    else:
        table = read_table(source, bad, ["item_id"], "rename the column of item ids", others=True)
    names = [name for name in ID_COLUMNS if name in table.columns]
    listed = {name: as_ids(source, table[name], kind in SEPARATORS) for name in names}
    return known_ids(pl.DataFrame(listed), bad)


def read_items_table(
    source: Any,
    item: str,
    title: str | None,
    brand: str | None,
    categories: str | None,
    bad: BadLines,
    items_id: str | None = None,
) -> pl.DataFrame:
    """The items of a source: `item_id`, `title`, `brand` and `categories` if present, and all other columns.

    Ids are in the column `items_id`, by default `item`, else `item_id`. Rows without an id are left out and counted.
    """
    named, where = dict(zip(TEXT_NAMES, (title, brand, categories), strict=True)), _called(source)
    ids = (items_id,) if items_id is not None else (item, "item_id")
    wanted = [column for column in named.values() if column is not None]
    option = "--items-id (items_id=) names the column of ids; --title, --brand and --categories name the others"
    table, kind = read_table(source, bad, wanted, option, others=True, one_of=ids), _kind(source)
    item = next(name for name in ids if name in table.columns)
    sources = {name: named[name] or name for name in TEXT_NAMES if (named[name] or name) in table.columns}
    columns = {"item_id": as_ids(where, table[item], kind in SEPARATORS)}
    columns |= {name: table[column] for name, column in sources.items()}
    if "categories" in columns:
        columns["categories"] = _as_paths(where, kind, columns["categories"])
        bad.hints += flat_path_hints(where, columns["categories"].to_arrow())
    taken = {item, *sources.values(), *columns}
    more = [name for name in table.columns if name not in taken]
    untyped = kind in (".csv", ".tsv")
    columns |= {name: plain_column(table[name]) if untyped else table[name] for name in more}
    result = pl.DataFrame(columns)
    bad.hints += unused_columns(where, more, [name for name in TEXT_NAMES if name not in sources])
    if missing := result["item_id"].null_count():
        bad.nameless["items file"] = missing
        result = result.drop_nulls("item_id")
    repeated = result.filter(result["item_id"].is_duplicated())
    if len(repeated):
        raise InputError(f"{where} lists item {repeated['item_id'][0]!r} more than once; keep one row per item")
    return result


def read_table(
    source: Any, bad: BadLines, wanted: list[str], option: str, others: bool = False, one_of: Sequence[str] = ()
) -> pl.DataFrame:
    """The columns `wanted` of a source and one of `one_of`; with `others`, all columns. Separated files give text.

    InputError for missing columns; the message ends with `option`.
    """

    def choose(where: Any, found: Sequence[str]) -> list[str]:
        missing = [name for name in wanted if name not in found]
        if one_of and not any(name in found for name in one_of):
            missing.append(" or ".join(dict.fromkeys(one_of)))
        if missing:
            raise InputError(f"{where} has no column {', '.join(missing)}; it has {', '.join(found)}; {option}")
        if not others:
            bad.hints = event_hints(where, [name for name in found if name not in wanted])
        return list(found) if others else list(dict.fromkeys(wanted))

    keys = [*(one_of or wanted)]
    if not isinstance(source, str | Path):
        table = as_table(source)
        return _polars(source, table.select(choose(_called(source), table.column_names)))
    parts = []
    for file in part_files(Path(source)):
        kind = file_kind(file)
        if kind == ".parquet":
            parts.append(_read_parquet(file, choose))
        elif kind in JSON_LINES:
            parts.append(_read_json(file, choose, None if others else wanted, bad))
        elif kind in SEPARATORS:
            parts.append(_read_separated(file, choose, keys, bad))
        else:
            known = ", ".join([".parquet", *SEPARATORS, *JSON_LINES])
            raise InputError(f"{file} ends in {file.suffix!r}; known endings are {known}, and text files with .gz")
    return parts[0] if len(parts) == 1 else _joined(Path(source), parts)


def _called(source: Any) -> Any:
    """The name of a source in messages."""
    return source if isinstance(source, str | Path) else f"the {type(source).__name__}"


def _kind(source: Any) -> str:
    """The suffix of a source's files, "" for a table in memory."""
    return file_kind(part_files(Path(source))[0]) if isinstance(source, str | Path) else ""


def _polars(where: Any, table: pa.Table) -> pl.DataFrame:
    try:
        return pl.DataFrame(pl.from_arrow(table))
    except UNREADABLE as error:
        raise InputError(f"{_called(where)} cannot be read: {error}") from None


def _joined(path: Path, parts: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all parts; a column that is text in one part becomes text in all."""
    text = {name for part in parts for name in part.columns if part[name].dtype == pl.String}
    whole = {name for part in parts for name in part.columns if part[name].dtype.is_integer()}
    mixed = pl.col(sorted(text & whole)).cast(pl.String) if text & whole else pl.all()
    try:
        return pl.concat([part.with_columns(mixed) for part in parts], how="diagonal_relaxed")
    except UNREADABLE as error:
        raise InputError(f"the parts of {path} have different columns or types: {error}") from None


def _read_parquet(path: Path, choose: Choice) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=choose(path, list(pl.read_parquet_schema(path))))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _read_json(path: Path, choose: Choice, wanted: list[str] | None, bad: BadLines) -> pl.DataFrame:
    """One row for each line with a JSON object; only the `wanted` fields, or all if it is None."""
    if wanted is not None and (table := _plain_json(path, wanted)) is not None:
        choose(path, table.columns)
        return table.select(list(dict.fromkeys(wanted)))
    rows: list[dict[str, Any]] = []
    found: dict[str, None] = {}
    once: dict[str, str] = {}  # stores equal texts once
    for number, line in numbered_lines(path):
        row = parse_json(line)
        if not isinstance(row, dict):
            bad.add(path, number, "is not a JSON object" if is_utf8(line) else "is not UTF-8")
            continue
        if not row.keys() <= found.keys():
            found |= dict.fromkeys(row)
        if wanted is not None:
            row = {
                name: once.setdefault(v, v) if type(v) is str else v
                for name in wanted
                if (v := row.get(name)) is not None
            }
        rows.append(row)
    if not rows:
        raise InputError(f"{path} cannot be read: it has no JSON object")
    names = choose(path, list(found))
    return _polars(path, pa.table({name: arrow_column([row.get(name) for row in rows]) for name in names}))


def _plain_json(path: Path, wanted: list[str]) -> pl.DataFrame | None:
    """The table by polars' fast reader, or None if it could differ from the one by `parse_json`."""
    content = read_text(path)
    if any(mark in content for mark in (b"NaN", b"Infinity", b"\\u")) or not is_utf8(content):
        return None
    try:
        table = pl.read_ndjson(content, infer_schema_length=None)
    except UNREADABLE:
        return None
    whole = len(table) == content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    simple = all(name in table.columns and table[name].dtype in (pl.Int64, pl.String) for name in wanted)
    return table if whole and simple and not any(table[name].null_count() for name in wanted) else None


def _read_separated(path: Path, choose: Choice, keys: Sequence[str], bad: BadLines) -> pl.DataFrame:
    """The chosen columns as text; in atomic files, columns with `:float` in the header as numbers."""
    kind, content = file_kind(path), whole_text(path)
    atomic = kind in ATOMIC
    layout = read_header(path, content, SEPARATORS[kind], quoted=not atomic)
    names = [name.partition(":")[0] for name in layout.names] if atomic else layout.names
    chosen = sorted({names.index(name) for name in choose(path, names)})
    places = [names.index(name) for name in keys if name in names]
    tidy, num_rows = tidy_rows(path, content, layout, places, bad)
    table = _parsed(path, tidy, layout, chosen, num_rows)
    table.columns = [names[place] for place in chosen]
    return atomic_values(path, table, layout.names) if atomic else table


def _parsed(path: Path, tidy: bytes, layout: Layout, chosen: list[int], num_rows: int) -> pl.DataFrame:
    if not num_rows:
        return pl.DataFrame({str(place): pl.Series([], dtype=pl.String) for place in chosen})
    quote = '"' if layout.quoted and b'"' in tidy else None
    separator = layout.separator.decode()
    try:
        table = pl.read_csv(
            tidy, separator=separator, quote_char=quote, has_header=False, infer_schema_length=0, columns=chosen
        )
        if len(table) == num_rows:
            return table
    except UNREADABLE:
        pass
    try:
        if quote:
            rows = list(csv.reader(io.StringIO(tidy.decode(), newline=""), delimiter=separator))
        else:
            rows = [line.rstrip("\r").split(separator) for line in tidy.decode().removesuffix("\n").split("\n")]
        return pl.DataFrame({str(place): [row[place] or None for row in rows] for place in chosen})
    except (csv.Error, IndexError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _as_paths(where: Any, kind: str, column: pl.Series) -> pl.Series:
    if kind in ATOMIC:
        return atomic_paths(column)
    paths = category_paths(column.to_arrow(), f"column {column.name} of {where}")
    return pl.Series(column.name, paths, dtype=pl.List(pl.String))
