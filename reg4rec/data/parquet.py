"""Reading and writing Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.errors import InputError
from reg4rec.writing import atomic_file

__all__ = ["read_parquet", "write_parquet"]


def write_parquet(path: str | Path, table: pa.Table) -> None:
    """Write `table` atomically; InputError for columns that Parquet cannot store."""
    with atomic_file(path) as fresh:
        try:
            pq.write_table(table, fresh)
        except pa.ArrowNotImplementedError as error:
            reason = str(error).partition(".")[0]
            raise InputError(f"{Path(path).name} cannot be written: {reason}; leave that column out") from None


def read_parquet(path: str | Path, columns: tuple[str, ...] = ()) -> pa.Table:
    """The table in a Parquet file; InputError if the file or one of `columns` is missing, or if it is damaged."""
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # else text that is not UTF-8 fails later
        found = table.column_names
    except FileNotFoundError:
        raise InputError(f"{path} is missing; is {Path(path).parent} the right folder?") from None
    except (OSError, ValueError, pa.ArrowException, MemoryError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(found)}")
    return table
