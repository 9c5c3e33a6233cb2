"""Reading the user's own tables: column mapping, ids, times, category paths."""

from pathlib import Path
from typing import Any

import polars as pl

from reg4rec.errors import InputError

__all__ = ["as_ids", "read_items_table", "read_log", "read_table"]

SEPARATORS = {".csv": ",", ".tsv": "\t"}
TEXT_NAMES = ("title", "brand", "categories")


def read_log(path: Path, user: str, item: str, time: str | None) -> pl.DataFrame:
    """The interactions of a file as `user_id`, `item_id` and, unless `time` is None, `timestamp`."""
    table = read_table(path, text_columns=(user, item))
    _require(path, table, [user, item] + ([time] if time is not None else []))
    if not len(table):
        raise InputError(f"{path} holds no interaction")
    columns = {"user_id": as_ids(path, table[user]), "item_id": as_ids(path, table[item])}
    if time is not None:
        columns["timestamp"] = _as_time(path, table[time])
    return pl.DataFrame(columns)


def read_items_table(
    path: Path, item: str, title: str | None, brand: str | None, categories: str | None
) -> pl.DataFrame:
    """The items of a file: `item_id`, those of `title`, `brand`, `categories` that it has, and all other columns."""
    table = read_table(path, text_columns=(item,))
    named = dict(zip(TEXT_NAMES, (title, brand, categories), strict=True))
    _require(path, table, [item] + [column for column in named.values() if column is not None])
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


def read_table(path: Path, text_columns: tuple[str, ...] = ()) -> pl.DataFrame:
    """A Parquet, CSV, TSV or JSONL file; `text_columns` of a text file are read as text."""
    kind = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    options: dict[str, Any] = {"infer_schema_length": None, "schema_overrides": dict.fromkeys(text_columns, pl.String)}
    try:
        if kind == ".parquet":
            return pl.read_parquet(path)
        if kind in SEPARATORS:
            return pl.read_csv(path, separator=SEPARATORS[kind], try_parse_dates=True, **options)
        if kind in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    raise InputError(f"{path} has the ending {kind!r}; known are .parquet, .csv, .tsv, .jsonl")


def as_ids(path: Path, ids: pl.Series) -> pl.Series:
    """Ids as Int64 where every one is a plain whole number, else as String; InputError for nulls or other types."""
    if ids.null_count():
        raise InputError(f"{path} has {ids.null_count()} rows without {ids.name}; drop them first")
    if ids.dtype.is_integer():
        return ids.cast(pl.Int64)
    if ids.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise InputError(f"column {ids.name} of {path} is {ids.dtype}; ids must be whole numbers or text")
    text = ids.cast(pl.String)
    numbers = text.cast(pl.Int64, strict=False)
    return numbers if (numbers.cast(pl.String) == text).fill_null(False).all() else text


def _require(path: Path, table: pl.DataFrame, columns: list[str]) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")


def _as_time(path: Path, time: pl.Series) -> pl.Series:
    if not (time.dtype.is_numeric() or time.dtype.is_temporal()):
        raise InputError(f"column {time.name} of {path} is {time.dtype}; times must be numbers or dates")
    unknown = time.null_count() + (int(time.is_nan().sum()) if time.dtype.is_float() else 0)
    if unknown:
        raise InputError(f"{path} has {unknown} rows without {time.name}; drop them, or give time=None")
    return time


def _as_paths(path: Path, column: pl.Series) -> pl.Series:
    """Category paths as lists: a list, the first of several lists, or text separated by "|" or ">"."""
    if column.dtype == pl.List(pl.List(pl.String)):
        return column.list.first()
    if column.dtype in (pl.List(pl.String), pl.List(pl.Null)):
        return column.cast(pl.List(pl.String))
    if column.dtype not in (pl.String, pl.Categorical, pl.Null):
        raise InputError(f"column {column.name} of {path} is {column.dtype}; categories must be lists or text")
    pieces = column.cast(pl.String).str.replace_all(">", "|", literal=True).str.split("|")
    stripped = pieces.list.eval(pl.element().str.strip_chars())
    return stripped.list.eval(pl.element().filter(pl.element() != ""))
