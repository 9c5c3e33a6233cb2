"""What is particular to the values of RecBole's atomic files."""

from collections import Counter
from pathlib import Path

import polars as pl

from reg4rec.errors import InputError

__all__ = ["ATOMIC", "atomic_paths", "atomic_values"]

ATOMIC = (".inter", ".item")


def atomic_values(path: Path, text: pl.DataFrame, header: list[str]) -> pl.DataFrame:
    """The columns, numbers where the header (`timestamp:float`) says so; InputError for text there."""
    floats = [name.partition(":")[0] for name in header if name.endswith(":float")]
    columns = text.with_columns(_unquoted(pl.col(pl.String)))
    return columns.with_columns(_numbers(path, columns[name]) for name in floats if name in columns.columns)


def _numbers(path: Path, text: pl.Series) -> pl.Series:
    numbers = text.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & text.is_not_null()
    if wrong.any():
        raise InputError(f"column {text.name}:float of {path} has {text.filter(wrong)[0]!r}, which is no number")
    return numbers


def _unquoted(text: pl.Expr) -> pl.Expr:
    """The text of fields that hold quotation marks as pandas, which RecBole's datasets were made with, writes them."""
    quoted = text.str.contains(r'^"([^"]|"")*""([^"]|"")*"$')
    return pl.when(quoted).then(text.str.replace(r'^"(.*)"$', "$1").str.replace_all('""', '"')).otherwise(text)


def atomic_paths(column: pl.Series) -> pl.Series:
    """Category paths as lists.

    The text is separated by ", ", or by spaces, where the first word is the category. Quoted labels, as in RecBole's
    Amazon sets, have no order: the label of more items comes first, as on a path.
    """
    text = column.cast(pl.String)
    if (text.str.contains(r"^['\"]") | (text == "")).all():
        return _by_frequency(
            text.str.extract_all(r"'[^']*'|\"[^\"]*\"").list.eval(pl.element().str.slice(1).str.head(-1))
        )
    commas = text.str.contains(", ", literal=True).any()
    pieces = text.str.split(", ") if commas else text.str.split(" ").list.head(1)
    return pieces.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))


def _by_frequency(labels: pl.Series) -> pl.Series:
    """The labels of each row, those of more rows first, ties by name."""
    rows = labels.to_list()
    counts = Counter(label for row in rows if row for label in row)
    ordered = [row and sorted(row, key=lambda label: (-counts[label], label)) for row in rows]
    return pl.Series(labels.name, ordered, dtype=pl.List(pl.String))
