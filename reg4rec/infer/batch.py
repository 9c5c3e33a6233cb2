"""Batch inference: a Parquet file of histories in, a folder of Parquet parts out."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.data.parquet import write_parquet
from reg4rec.errors import InputError
from reg4rec.infer.recommender import Recommender
from reg4rec.storage import atomic_folder

__all__ = ["read_users", "recommend_to_folder"]

USERS_IN_PART = 8192


def read_users(path: str | Path) -> Iterator[pa.Table]:
    """Pieces of a Parquet file with a column `items` (lists of item ids, oldest first) and optionally `user_id`.

    Users without ids are numbered from 0 through the whole file.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give a Parquet file with columns user_id and items") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None
    first = 0
    with file:
        for batch in file.iter_batches(USERS_IN_PART):
            table = pa.Table.from_batches([batch])
            if "user_id" not in table.column_names:
                table = table.append_column("user_id", pa.array(range(first, first + len(table)), pa.int64()))
            first += len(table)
            yield table


def recommend_to_folder(
    recommender: Recommender, users: Iterable[pa.Table], out: str | Path, k: int = 10, filter_seen: bool = True
) -> int:
    """Write `part-N.parquet`, one a piece of users, and return the number of users; the folder appears when whole."""
    count = 0
    with atomic_folder(out) as fresh:
        for number, table in enumerate(users):
            recommended = recommender.recommend(table, k, filter_seen)
            write_parquet(fresh / f"part-{number:05d}.parquet", recommended.to_arrow())
            count += table.num_rows
    return count
