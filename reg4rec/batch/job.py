"""Batch inference: a file or a dataset of users in, a folder of parts out, in bounded memory.

`manifest.json` describes the job and, for every finished part, the rows and batches it was made of. A killed job that
is started again continues after the finished parts and ends with the same bytes. Reading, searching and writing
overlap.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reg4rec.batch.manifest import PATH_COUNTS, Job, Manifest, PartFormat, part_name, read_manifest
from reg4rec.batch.users import UserPart, Users, open_users
from reg4rec.data import Dataset
from reg4rec.data.parquet import write_parquet
from reg4rec.errors import InputError
from reg4rec.progress import bar
from reg4rec.recommend.checks import check_number
from reg4rec.recommend.filters import FilterFiles
from reg4rec.recommend.recommender import Recommender
from reg4rec.recommend.table import Results, as_frame, results_arrow
from reg4rec.search import RetrieverName
from reg4rec.settings import override
from reg4rec.storage import sha256_of
from reg4rec.writing import atomic_file, disk_errors_explained, exclusive_folder

__all__ = [
    "Job",
    "JobOptions",
    "Manifest",
    "OpenedJob",
    "PartFormat",
    "PartMaker",
    "part_name",
    "plan_batches",
    "recommend_to_folder",
    "with_retriever",
]

HISTORY_SLOTS_AT_ONCE = 1 << 17
"""Most history items in a batch, padding included; the number of users is limited too."""
PARTS_AHEAD = 2


@dataclass(frozen=True)
class JobOptions:
    """Options of a job. `candidates` and `exclude` are files (see `FilterFiles`).

    `user`, `item` and `time` are the column names of clicks; `titles` adds the items' titles to the parts.
    """

    k: int = 10
    filter_seen: bool = True
    return_paths: bool = False
    titles: bool = False
    format: PartFormat = "parquet"
    candidates: str | Path | None = None
    exclude: str | Path | None = None
    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"
    users_in_part: int = 8192

    def __post_init__(self) -> None:
        check_number(self.k)
        if self.users_in_part < 1:
            raise InputError(f"users_in_part is {self.users_in_part}; it must be 1 or more")
        if self.format not in get_args(PartFormat):
            raise InputError(f"format must be one of {', '.join(get_args(PartFormat))}, found {self.format!r}")
        if self.return_paths and self.format == "csv":
            raise InputError("format csv cannot contain paths; use jsonl or parquet, or leave the paths out")


def recommend_to_folder(
    recommender: Recommender,
    users: str | Path | Dataset,
    out: str | Path,
    k: int = 10,
    *,
    resume: bool = True,
    retriever: RetrieverName = "auto",
    allow_unknown: bool = False,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Recommend for all users of a dataset or a file (see `open_users`) and return the content of `summary.json`.

    `options` are fields of `JobOptions`: filter_seen, return_paths, titles, format, candidates, exclude ...
    `retriever` "auto" takes the recommender's, or in a continued job the one with which the job began.

    Writes into the folder `out`: `part-N.parquet` with the columns of `results_arrow`, users in the order of the input;
    `rejected.parquet` with the rows that could not be used. With `resume` an unfinished job continues and a finished
    one is not touched; without, the job starts over.

    InputError if `out` contains another job or other files, or another process writes there; and at the end if more
    than nine in ten history items are unknown, unless `allow_unknown`. More than half give a warning.
    """
    out = Path(out)
    recommender = with_retriever(recommender, retriever, out if resume else None)
    opened = OpenedJob(recommender, users, out, override(JobOptions(k=k), options))
    with disk_errors_explained(out), exclusive_folder(out):
        maker = PartMaker(recommender, out, opened.job, opened.filters)
        manifest = Manifest(out, opened.job, opened.users.num_rows, resume)
        return _Worker(maker, manifest, progress).finish(opened.users, allow_unknown)


def with_retriever(recommender: Recommender, retriever: RetrieverName, out: Path | None) -> Recommender:
    """The recommender with the given retriever; "auto" means that of the job in `out`, else the recommender's own."""
    manifest = None if out is None else out / "manifest.json"
    if retriever == "auto" and recommender.config.retriever == "auto" and manifest is not None and manifest.exists():
        began = read_manifest(manifest).get("job")
        if isinstance(began, dict) and began.get("retriever") in ("exact", "paths"):
            retriever = began["retriever"]
    return recommender if retriever == "auto" else recommender.with_search(retriever=retriever)


class OpenedJob:
    """The users and the filters of a job, and its description `job` for the manifest: equal jobs may be continued."""

    def __init__(self, recommender: Recommender, users: str | Path | Dataset, out: Path, options: JobOptions):
        if out.suffix in (".csv", ".tsv", ".json", ".jsonl"):
            raise InputError(
                f"{out} looks like a file name, but the output is a folder of parts; give a folder, and choose the "
                "format of the parts with --format csv or jsonl (format=)"
            )
        self.filters = FilterFiles(recommender.items, options.candidates, options.exclude)
        self.users: Users = open_users(users, recommender.items, options.user, options.item, options.time)
        self.job: Job = {
            "input": self.users.fingerprint,
            "recommender": recommender.fingerprint(),
            "retriever": recommender.retriever,
            "device": recommender.device.type,
            "dtype": str(recommender.dtype).removeprefix("torch."),
            **{name: value for name, value in asdict(options).items() if name not in ("user", "item", "time")},
            **self.filters.fingerprints,
            "users_in_batch": recommender.users_at_once(),
            "history_slots_in_batch": HISTORY_SLOTS_AT_ONCE,
        }


def plan_batches(lengths_B: npt.NDArray[np.int64], max_users: int, max_slots: int) -> list[npt.NDArray[np.int64]]:
    """Batches of users with histories of similar length, shortest first.

    A batch has at most `max_users` users and, padding included, `max_slots` items; a single user may have more items.
    """
    order = np.argsort(lengths_B, kind="stable")
    batches, first = [], 0
    while first < len(order):
        longest = np.maximum(1, lengths_B[order[first : first + max_users]])
        fits = int((longest * np.arange(1, len(longest) + 1) <= max_slots).sum())
        batches.append(order[first : first + max(1, fits)])
        first += len(batches[-1])
    return batches


class PartMaker:
    """Makes the parts of a job with one recommender: searches the users of a part and writes the results."""

    def __init__(self, recommender: Recommender, out: Path, job: Job, filters: FilterFiles):
        recommender = recommender.with_search(retriever=job["retriever"])
        self.recommender = recommender if filters.rows is None else recommender.with_rows(filters.rows)
        self.out, self.job, self.filters = out, job, filters
        self.batch_seconds: list[float] = []

    def search(self, part: UserPart, writing: ThreadPoolExecutor) -> "list[Future[_Batch]]":
        """Search the users of a part in batches; the thread of `writing` makes a table of each batch."""
        found, own = [], self.filters.own(part.users)
        for rows_B in plan_batches(
            part.histories.lengths, self.job["users_in_batch"], self.job["history_slots_in_batch"]
        ):
            started = time.monotonic()
            histories, k, filter_seen = part.histories.take(rows_B), self.job["k"], self.job["filter_seen"]
            some = None if own is None else own.take(rows_B)
            results = list(self.recommender.results(histories, k, filter_seen, self.job["return_paths"], some))
            self.batch_seconds.append(time.monotonic() - started)
            found.append(writing.submit(self._batch, rows_B, results))
        return found

    def _batch(self, rows_B: npt.NDArray[np.int64], results: Sequence[Results]) -> "_Batch":
        paths = [one.paths for one in results if one.paths is not None]
        counts = {
            "paths_pruned": sum(int(one.pruned_B.sum()) for one in paths),
            "fallbacks": sum(int(one.fallbacks_B.sum()) for one in paths),
        }
        return _Batch(self._table(rows_B, results), len(rows_B), counts)

    def _table(self, rows_B: npt.NDArray[np.int64], results: Sequence[Results]) -> pa.Table:
        users, items = pa.array(rows_B), self.recommender.items
        return results_arrow(users, items, results, self.job["return_paths"], self.job["titles"])

    def write(self, name: str, part: UserPart, found: "list[Future[_Batch]]") -> dict[str, Any]:
        """Write a part, with its users in the order of the input, and return its entry for the manifest."""
        batches = [future.result() for future in found]
        nobody = self._table(np.empty(0, dtype=np.int64), [])
        table = pa.concat_tables([nobody, *(batch.table for batch in batches)])
        table = table.take(pa.array(np.argsort(table["user_id"].to_numpy(), kind="stable")))
        users = part.users.take(table["user_id"].combine_chunks())
        _write_part(self.out / name, table.set_column(0, "user_id", users))
        return {
            "file": name,
            "sha256": sha256_of(self.out / name),
            "first_row": part.first_row,
            "rows": part.num_rows,
            "batches": [batch.num_users for batch in batches],
            "users": len(part.users),
            "rejected": part.rejected.num_rows,
            "history_items": part.num_items,
            "unknown_items": part.num_unknown,
            "recommendations": table.num_rows,
            **{name: sum(batch.path_counts[name] for batch in batches) for name in PATH_COUNTS},
            "sources": {row["values"]: row["counts"] for row in pc.value_counts(table["source"]).to_pylist()},
        }


class _Worker:
    """The job in one process: reading, searching and writing overlap."""

    def __init__(self, maker: PartMaker, manifest: Manifest, show: bool):
        self.maker, self.manifest, self.show = maker, manifest, show
        self.out, self.job = manifest.out, manifest.job

    def finish(self, users: Users, allow_unknown: bool) -> dict[str, Any]:
        """Make the missing parts and the summary, and return the summary."""
        if (summary := self.manifest.summary()) is not None:
            return summary
        num_searched, known_rows = 0, sum(part["rows"] for part in self.manifest.parts.values())
        with (
            bar("recommending", users.num_rows, known_rows, self.show, unit=" users") as done,
            ThreadPoolExecutor(1) as reading,
            ThreadPoolExecutor(1) as writing,
            atomic_file(self.out / "rejected.parquet") as fresh,
            pq.ParquetWriter(fresh, users.rejected_schema) as rejected,
        ):
            pending: deque[Future[None]] = deque()
            for number, part in enumerate(_ahead(reading, users.parts(self.job["users_in_part"]))):
                if part.rejected.num_rows:
                    rejected.write_table(part.rejected)
                name = part_name(number, self.job)
                if name in self.manifest.parts:
                    continue
                pending.append(writing.submit(self._write, name, part, self.maker.search(part, writing)))
                num_searched += len(part.users)
                if len(pending) == PARTS_AHEAD:
                    pending.popleft().result()
                done.update(part.num_rows)
            for left in pending:
                left.result()
        items = self.maker.recommender.items
        return self.manifest.summarize(self.maker.batch_seconds, num_searched, items, allow_unknown)

    def _write(self, name: str, part: UserPart, found: "list[Future[_Batch]]") -> None:
        self.manifest.add(self.maker.write(name, part, found))


def _write_part(path: Path, table: pa.Table) -> None:
    """Write a part in the format of its file name."""
    if path.suffix == ".parquet":
        write_parquet(path, table)
        return
    frame = as_frame(table, "polars")
    with atomic_file(path) as fresh:
        (frame.write_csv if path.suffix == ".csv" else frame.write_ndjson)(fresh)


class _Batch(NamedTuple):
    """Results for some users of a part; `user_id` in `table` is the user's position in the part."""

    table: pa.Table
    num_users: int
    path_counts: dict[str, int]


def _ahead(reading: ThreadPoolExecutor, parts: Iterator[UserPart]) -> Iterator[UserPart]:
    """The parts in order; the next part is read while the present one is searched."""
    coming = reading.submit(next, parts, None)
    while (part := coming.result()) is not None:
        coming = reading.submit(next, parts, None)
        yield part
