"""Reading the user's own tables: column mapping, ids, times, category paths."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from reg4rec.data.lines import BadLines, file_kind, read_text, readable_json, readable_rows
from reg4rec.errors import InputError

__all__ = ["as_ids", "as_plain_ids", "as_times", "read_items_table", "read_log", "read_table"]

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
ATOMIC = (".inter", ".item")
JSON_LINES = (".jsonl", ".ndjson")
TEXT_NAMES = ("title", "brand", "categories")
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)

Parser = Callable[[bytes], pl.DataFrame]
Repair = Callable[[Path, bytes, BadLines], bytes]


def read_log(path: Path, user: str, item: str, time: str | None, bad: BadLines) -> pl.DataFrame:
    """The interactions of a file as `user_id`, `item_id` and, unless `time` is None, `timestamp`."""
    wanted = [user, item] + ([time] if time is not None else [])
    table = read_table(path, bad, wanted, ids=(user, item), complete=tuple(wanted))
    if not len(table):
        raise InputError(f"{path} holds no interaction")
    columns = {"user_id": as_ids(path, table[user]), "item_id": as_ids(path, table[item])}
    if time is not None:
        if table[time].dtype.is_temporal() and file_kind(path) in SEPARATORS:
            _check_dates(path, read_table(path, BadLines(bad.limit), [time], ids=(time,))[time])
        columns["timestamp"] = as_times(path, table[time])
    return pl.DataFrame(columns)


def _check_dates(path: Path, written: pl.Series) -> None:
    """InputError for dates that do not begin with the year, unless one shows which number is the day.

    polars reads the day first, and years of two digits as of the first century.
    """
    year_last = written.filter(written.str.contains(r"^\d{1,2}\D"))
    days = year_last.str.extract(r"^(\d+)\D\d{1,2}\D\d{4}").cast(pl.Int64)
    if len(year_last) and not (days > 12).any():
        raise InputError(
            f"column {written.name} of {path} has dates such as {year_last[0]!r}, which can be read in two ways; "
            "write them with the year first (2021-04-03), or as seconds since 1970"
        )


def read_items_table(
    path: Path, item: str, title: str | None, brand: str | None, categories: str | None, bad: BadLines
) -> pl.DataFrame:
    """The items of a file: `item_id`, those of `title`, `brand`, `categories` that it has, and all other columns."""
    named = dict(zip(TEXT_NAMES, (title, brand, categories), strict=True))
    wanted = [item] + [column for column in named.values() if column is not None]
    table = read_table(path, bad, wanted, ids=(item,), complete=(item,), others=True)
    sources = {name: named[name] or name for name in TEXT_NAMES if (named[name] or name) in table.columns}
    columns = {"item_id": as_ids(path, table[item])} | {name: table[column] for name, column in sources.items()}
    if "categories" in columns:
        columns["categories"] = _as_paths(path, columns["categories"])
    taken = {item, *sources.values(), *columns}
    result = pl.DataFrame(columns | {name: table[name] for name in table.columns if name not in taken})
    repeated = result.filter(result["item_id"].is_duplicated())
    if len(repeated):
        raise InputError(f"{path} lists item {repeated['item_id'][0]!r} more than once; keep one row an item")
    return result


def read_table(
    path: Path,
    bad: BadLines,
    wanted: list[str],
    ids: tuple[str, ...] = (),
    complete: tuple[str, ...] = (),
    others: bool = False,
) -> pl.DataFrame:
    """The `wanted` columns (with `others`, all) of a Parquet, CSV, TSV, JSONL or atomic file, perhaps gzipped.

    Columns `ids` of a CSV file come as the whole numbers or the text that stands there. A line without a value in a
    `complete` column is a malformed one.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, wanted, others)
    read, repair = _text_reader(path, ids)
    content = read_text(path)
    try:
        table = _attempt(path, read, content)
        mended = any(table[name].null_count() for name in complete if name in table.columns)
    except InputError:
        mended = True
    if mended:  # lines that are too long stop the fast reader, those that are too short give nulls
        table = _attempt(path, read, repair(path, content, bad))
    _require(path, table.columns, wanted)
    return table if others else table.select(list(dict.fromkeys(wanted)))


def _attempt(path: Path, read: Parser, content: bytes) -> pl.DataFrame:
    try:
        table = read(content)
        if any("\0" in name for name in table.columns):
            raise ValueError("a column name holds a zero byte")
        return table
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}") from None


def _read_parquet(path: Path, wanted: list[str], others: bool) -> pl.DataFrame:
    try:
        found = list(pl.read_parquet_schema(path))
        _require(path, found, wanted)
        return pl.read_parquet(path, columns=found if others else list(dict.fromkeys(wanted)))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _text_reader(path: Path, ids: tuple[str, ...]) -> tuple[Parser, Repair]:
    """How the content of a text file is parsed, and which lines are left out where that fails."""
    kind = file_kind(path)
    if kind in JSON_LINES:
        return _parse_json, readable_json
    if kind in SEPARATORS:
        return _row_reader(kind, ids)
    known = ", ".join([".parquet", *SEPARATORS, *JSON_LINES])
    raise InputError(f"{path} has the ending {path.suffix!r}; known are {known}, and .gz after those of text")


def _parse_json(content: bytes) -> pl.DataFrame:
    return pl.read_ndjson(content, infer_schema_length=None)


def _row_reader(kind: str, ids: tuple[str, ...]) -> tuple[Parser, Repair]:
    atomic, separator = kind in ATOMIC, SEPARATORS[kind]

    def read(content: bytes) -> pl.DataFrame:
        types = dict.fromkeys(ids, pl.String) | (_atomic_types(content) if atomic else {})
        options: dict[str, Any] = {"quote_char": None} if atomic else {"try_parse_dates": True}
        table = pl.read_csv(content, separator=separator, infer_schema_length=None, schema_overrides=types, **options)
        table = table.rename({name: name.partition(":")[0] for name in table.columns}) if atomic else table
        table = table.with_columns(_unquoted(pl.col(pl.String))) if atomic else table
        return table.with_columns(as_plain_ids(table[name]) for name in ids if name in table.columns)

    def repair(path: Path, content: bytes, bad: BadLines) -> bytes:
        return readable_rows(path, content, separator, not atomic, bad)

    return read, repair


def _atomic_types(content: bytes) -> dict[str, Any]:
    """Types by the header of an atomic file, `user_id:token  item_id:token  timestamp:float`."""
    header = content.partition(b"\n")[0].decode().rstrip("\r").split("\t")
    return {name: pl.Float64 if name.endswith(":float") else pl.String for name in header if ":" in name}


def _unquoted(text: pl.Expr) -> pl.Expr:
    """The text of fields that hold quotation marks as pandas, which RecBole's datasets were made with, writes them."""
    quoted = text.str.contains(r'^"([^"]|"")*""([^"]|"")*"$')
    return pl.when(quoted).then(text.str.replace(r'^"(.*)"$', "$1").str.replace_all('""', '"')).otherwise(text)


def as_plain_ids(text: pl.Series) -> pl.Series:
    """Whole numbers where every value is one and is written plainly, else the text as it is."""
    numbers = text.cast(pl.Int64, strict=False)
    return numbers if (numbers.cast(pl.String) == text).fill_null(False).all() else text


def as_ids(path: Path, ids: pl.Series) -> pl.Series:
    """Ids as Int64 or String, as they were given; InputError for nulls or other types."""
    if ids.null_count():
        raise InputError(f"{path} has {ids.null_count()} rows without {ids.name}; drop them first")
    if ids.dtype.is_integer():
        fits = ids.cast(pl.Int64, strict=False)
        return ids.cast(pl.String) if fits.null_count() else fits
    if ids.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise InputError(f"column {ids.name} of {path} is {ids.dtype}; ids must be whole numbers or text")
    return ids.cast(pl.String)


def as_times(path: Path, time: pl.Series) -> pl.Series:
    """Times as Int64 or Float64; dates and moments become microseconds since 1970."""
    if isinstance(time.dtype, pl.Time | pl.Duration):
        raise InputError(f"column {time.name} of {path} is a time of day or a duration; join it with its date")
    if not (time.dtype.is_numeric() or time.dtype.is_temporal()):
        first = "" if time.dtype != pl.String else f" (for example {time.drop_nulls().head(1).to_list()})"
        raise InputError(f"column {time.name} of {path} is {time.dtype}{first}; times must be numbers or dates")
    kind = pl.Int64 if time.dtype.is_integer() or time.dtype.is_temporal() else pl.Float64
    if isinstance(time.dtype, pl.Datetime) or time.dtype == pl.Date:
        time = time.cast(pl.Datetime("us"))
    numbers = time.cast(kind, strict=False)
    unknown = numbers.null_count() + (int((~numbers.is_finite()).sum()) if kind == pl.Float64 else 0)
    if unknown:
        raise InputError(f"{path} has {unknown} rows without {time.name}; drop them, or give time=None")
    return numbers


def _require(path: Path, found: list[str], columns: list[str]) -> None:
    missing = [name for name in columns if name not in found]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(found)}")


def _as_paths(path: Path, column: pl.Series) -> pl.Series:
    """Category paths as lists: a list, the first of several lists, or text.

    Whole numbers are names. Text is separated by "|" or ">"; in atomic files by ", ", or by spaces, where the first
    word is the category. Quoted labels, as in RecBole's Amazon sets, stand in no order: the label of more items comes
    first, as on a path.
    """
    if isinstance(column.dtype, pl.List) and isinstance(column.dtype.inner, pl.List):
        column = column.list.first()
    kind = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if not (kind in (pl.String, pl.Categorical, pl.Null) or kind.is_integer()):
        raise InputError(
            f"column {column.name} of {path} is {column.dtype}; categories must be text, whole numbers or lists of them"
        )
    if isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String))
    text = column.cast(pl.String)
    if file_kind(path) in ATOMIC:
        if (text.str.contains(r"^['\"]") | (text == "")).all():
            return _by_frequency(
                text.str.extract_all(r"'[^']*'|\"[^\"]*\"").list.eval(pl.element().str.slice(1).str.head(-1))
            )
        commas = text.str.contains(", ", literal=True).any()
        pieces = text.str.split(", ") if commas else text.str.split(" ").list.head(1)
    else:
        pieces = text.str.replace_all(">", "|", literal=True).str.split("|")
    stripped = pieces.list.eval(pl.element().str.strip_chars())
    return stripped.list.eval(pl.element().filter(pl.element() != ""))


def _by_frequency(labels: pl.Series) -> pl.Series:
    """The labels of each row, those of more rows first, ties by name."""
    rows = labels.to_list()
    counts = Counter(label for row in rows if row for label in row)
    ordered = [row and sorted(row, key=lambda label: (-counts[label], label)) for row in rows]
    return pl.Series(labels.name, ordered, dtype=pl.List(pl.String))
