"""Values in RecBole's atomic files: number columns, quotation marks, category paths."""

from collections import Counter
from pathlib import Path

import polars as pl

from reg4rec.errors import InputError

__all__ = ["ATOMIC", "atomic_paths", "atomic_values"]

ATOMIC = (".inter", ".item")


def atomic_values(path: Path, text: pl.DataFrame, header: list[str]) -> pl.DataFrame:
    """The columns, with `:float` columns of the header as numbers; InputError for text in those."""
    floats = [name.partition(":")[0] for name in header if name.endswith(":float")]
    columns = text.with_columns(_unquoted(pl.col(pl.String)))
    return columns.with_columns(_numbers(path, columns[name]) for name in floats if name in columns.columns)


def _numbers(path: Path, text: pl.Series) -> pl.Series:
    numbers = text.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & text.is_not_null()
    if wrong.any():
        raise InputError(f"column {text.name}:float of {path} has {text.filter(wrong)[0]!r}, which is not a number")
    return numbers


def _unquoted(text: pl.Expr) -> pl.Expr:
    """The text of fields that pandas quoted because they contain quotation marks (RecBole writes files by pandas)."""
    quoted = text.str.contains(r'^"([^"]|"")*""([^"]|"")*"$')
    return pl.when(quoted).then(text.str.replace(r'^"(.*)"$', "$1").str.replace_all('""', '"')).otherwise(text)


def atomic_paths(column: pl.Series) -> pl.Series:
    """Category paths as lists.

    Text is split at ", ", or else its first word is the category. Quoted labels, as in RecBole's Amazon sets, have no
    order, so they are sorted by frequency: the label of the most items comes first, as in a path.
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
    """The labels of each row, most frequent first, ties by name."""
    rows = labels.to_list()
    counts = Counter(label for row in rows if row for label in row)
    ordered = [row and sorted(row, key=lambda label: (-counts[label], label)) for row in rows]
    return pl.Series(labels.name, ordered, dtype=pl.List(pl.String))
