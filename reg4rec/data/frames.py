"""Arrow tables from tables in memory: pandas, polars, Arrow, anything with an Arrow stream, or columns by name.

This module imports neither pandas nor polars.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from reg4rec.data.lines import whole_characters
from reg4rec.errors import InputError

__all__ = ["arrow_column", "as_table", "is_frame"]

FORMS = "a pandas or polars DataFrame, an Arrow table, or a dictionary of columns"


def is_frame(value: Any) -> bool:
    """Whether `as_table` accepts the value."""
    if isinstance(value, Mapping | pa.Table) or _is_pandas(value):
        return True
    return hasattr(value, "__arrow_c_stream__") and not hasattr(value, "to_list") and not hasattr(value, "to_pylist")


def as_table(value: Any) -> pa.Table:
    """A table in memory as an Arrow table, with named pandas index levels as columns; InputError for anything else."""
    if isinstance(value, pa.Table):
        return value
    try:
        if isinstance(value, Mapping):
            return pa.table({str(name): arrow_column(list(column)) for name, column in value.items()})
        if _is_pandas(value):
            columns = value.reset_index() if any(name is not None for name in value.index.names) else value
            return pa.table({str(name): _pandas_column(columns[name]) for name in columns.columns})
        if hasattr(value, "to_arrow"):  # polars, including versions without __arrow_c_stream__
            return pa.table(value.to_arrow())
        if hasattr(value, "__arrow_c_stream__"):
            return pa.table(value)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the {type(value).__name__} is not a table: {error}; give {FORMS}") from None
    raise InputError(f"found {value!r:.40} ({type(value).__name__}) where a table was expected; give {FORMS}")


def arrow_column(values: Sequence[Any]) -> pa.Array:
    """The values as an Arrow array, NaN as null; values of mixed types become text."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([_text(value) for value in values], pa.string())


def _is_pandas(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns")


def _pandas_column(series: Any) -> pa.Array:
    if str(series.dtype) == "object":
        return arrow_column(series.tolist())
    column = pa.array(series, from_pandas=True)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return str(whole_characters(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)
