"""Batch inference on a Ray cluster: many actors make the parts of a job.

An actor loads the recommender once. It reads the rows of a part and writes the part's file itself, in one step, under
the number of the part. So no separate reading task has to wait for resources that the actors occupy, and if a part is
made again after its worker was killed, it replaces itself: no row is lost or duplicated. All machines must see the same
files.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.batch.job import JobOptions, OpenedJob, PartMaker, with_retriever
from reg4rec.batch.manifest import Job, Manifest, part_name
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.recommend.recommender import DType, Recommender
from reg4rec.search import RetrieverName
from reg4rec.settings import override
from reg4rec.writing import atomic_file, disk_errors_explained, exclusive_folder

__all__ = ["recommend_on_cluster"]


@dataclass(frozen=True)
class ClusterJob:
    """The input of an actor: paths that every machine sees; `users` may also be a dataset itself."""

    model: Path
    device: str
    dtype: DType
    users: Path | Dataset
    out: Path
    options: JobOptions

    def load(self) -> Recommender:
        return Recommender.from_pretrained(self.model, self.device, self.dtype)


class PartActor:
    """Makes the part of each `number`; if it is `known` (made already), only reads its users.

    Returns a row for each part: `rejected`, an Arrow stream; and `made`, JSON with the part's entry for the manifest
    (null for a known part) and the seconds of its batches, or with the `error` in the user's input that stopped it.
    """

    def __init__(self, cluster: ClusterJob, job: Job):
        recommender = cluster.load()
        opened = OpenedJob(recommender, cluster.users, cluster.out, cluster.options)
        self.maker = PartMaker(recommender, cluster.out, job, opened.filters)
        self.users = opened.users
        self.writing = ThreadPoolExecutor(1)

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            return pa.Table.from_pylist([self._make(**row) for row in rows.to_pylist()])
        except InputError as error:
            return pa.Table.from_pylist([{"number": -1, "rejected": b"", "made": json.dumps({"error": str(error)})}])

    def _make(self, number: int, known: bool) -> dict[str, Any]:
        size = self.maker.job["users_in_part"]
        part = self.users.part(number * size, size)
        self.maker.batch_seconds.clear()
        record = (
            None
            if known
            else self.maker.write(part_name(number, self.maker.job), part, self.maker.search(part, self.writing))
        )
        made = {"part": record, "batch_seconds": self.maker.batch_seconds}
        return {"number": number, "rejected": _packed(part.rejected), "made": json.dumps(made)}


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def recommend_on_cluster(
    model: str | Path,
    users: str | Path | Dataset,
    out: str | Path,
    k: int = 10,
    *,
    resume: bool = True,
    retriever: RetrieverName = "auto",
    allow_unknown: bool = False,
    device: str = "auto",
    dtype: DType = "auto",
    address: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`recommend_to_folder` on a Ray cluster, with the recommender saved in the folder `model`.

    `address`: the cluster; None takes the one that Ray finds (`RAY_ADDRESS`), else starts one on this machine. An actor
    takes one CPU, and one GPU if the device is a GPU. Their number grows from one up to the number of parts, as far as
    the cluster has room. Every actor reads the whole files of filters and clicks.
    InputError if the cluster has no room for an actor, or Ray is not installed (extra `ray`).
    """
    model, out = Path(model).resolve(), Path(out).resolve()
    users = users if isinstance(users, Dataset) else Path(users).resolve()
    files = {name: Path(options[name]).resolve() for name in ("candidates", "exclude") if options.get(name) is not None}
    ray = _connect(address)
    cluster = ClusterJob(model, device, dtype, users, out, override(JobOptions(k=k), options | files))
    recommender = with_retriever(cluster.load(), retriever, out if resume else None)
    opened = OpenedJob(recommender, users, out, cluster.options)
    job = opened.job
    num_gpus = 1 if recommender.device.type == "cuda" else 0
    _check_room(ray, num_gpus)
    with disk_errors_explained(out), exclusive_folder(out):
        manifest = Manifest(out, job, opened.users.num_rows, resume)
        if (summary := manifest.summary()) is not None:
            return summary
        tasks = [{"number": n, "known": part_name(n, job) in manifest.parts} for n in range(manifest.num_parts)]
        rejected: dict[int, bytes] = {}
        seconds: list[float] = []
        num_searched = 0
        for row in _made(ray, cluster, job, tasks, num_gpus):
            rejected[row["number"]], made = row["rejected"], json.loads(row["made"])
            if "error" in made:
                raise InputError(made["error"])
            seconds += made["batch_seconds"]
            if made["part"] is not None:
                manifest.add(made["part"])
                num_searched += made["part"]["users"]
        with (
            atomic_file(out / "rejected.parquet") as fresh,
            pq.ParquetWriter(fresh, opened.users.rejected_schema) as writer,
        ):
            for _, packed in sorted(rejected.items()):
                table = pa.ipc.open_stream(packed).read_all()
                if table.num_rows:
                    writer.write_table(table)
        return manifest.summarize(seconds, num_searched, recommender.items, allow_unknown)


def _made(
    ray: Any, cluster: ClusterJob, job: Job, tasks: list[dict[str, Any]], num_gpus: int
) -> Iterator[dict[str, Any]]:
    """The rows of `PartActor` for all tasks, in the order in which the tasks finish."""
    if not tasks:
        return
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=len(tasks))
    parts = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        PartActor,
        batch_size=None,
        batch_format="pyarrow",
        compute=actors,
        fn_constructor_args=(cluster, job),
        num_cpus=1,
        num_gpus=num_gpus,
    )
    yield from parts.iter_rows()


def _connect(address: str | None) -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("ray is not installed; pip install 'reg4rec[ray]', or use --engine local") from None
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster was found at address {address!r}: {error}") from None
    return ray


def _check_room(ray: Any, num_gpus: int) -> None:
    has = ray.cluster_resources()
    for kind, needed in (("CPU", 1), ("GPU", num_gpus)):
        if has.get(kind, 0) < needed:
            raise InputError(
                f"the Ray cluster has {has.get(kind, 0):g} {kind}s, an actor needs {needed}; add a worker to it"
            )
