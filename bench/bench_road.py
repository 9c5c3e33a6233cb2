"""The work around exact ranking: tables of ids, paths on demand, batch jobs, threads, the first call of a process."""

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.bench_recommend import CODEBOOKS, CODES, ITEMS
from bench.bench_rivals import recommender as random_recommender
from bench.bench_rivals import sequences
from reg4rec.batch.job import recommend_to_folder
from reg4rec.recommend import Recommender
from reg4rec.tokenizer.health import Health

JOB_USERS, CALLS = 20_000, 400
FIRST = """
import json, sys, time
began = time.perf_counter()
import reg4rec
imported = time.perf_counter()
rec = reg4rec.Recommender.from_pretrained(sys.argv[1], device="cpu")
loaded = time.perf_counter()
before = set(sys.modules)
table = rec.recommend({"ann": list(range(8))}, k=10)
first = time.perf_counter()
rec.recommend({"ann": list(range(8))}, k=10)
second = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({"resident_mib": int(status["VmRSS"].split()[0]) / 1024,
    "import_s": imported - began, "load_s": loaded - imported, "first_call_s": first - loaded,
    "second_call_s": second - first, "rows": table.num_rows, "imported_late": sorted(set(sys.modules) - before)}))
"""


@cache
def recommender() -> Recommender:
    found = random_recommender().with_search(retriever="exact")
    found.prepare()
    return found


def bench_recommend_one(benchmark: Any, environment: dict[str, Any]) -> None:
    """`recommend` for one user by ids: 50th and 99th percentile of many calls, each for another user."""
    rec, users = recommender(), [{"ann": items.tolist()} for items in map(sequences(CALLS).__getitem__, range(CALLS))]
    benchmark.group = "table/one user/cpu"
    table = benchmark(rec.recommend, users[0])
    assert table.num_rows == 10
    if benchmark.disabled:
        return
    taken = []
    for user in users:
        began = time.perf_counter()
        rec.recommend(user)
        taken.append(time.perf_counter() - began)
    percentiles = statistics.quantiles(taken, n=100)
    benchmark.extra_info.update(environment, backend="exact", p50_s=percentiles[49], p99_s=percentiles[98])


def bench_reasons(benchmark: Any, environment: dict[str, Any]) -> None:
    """A path to each of ten items of one user."""
    rec, users = recommender(), sequences(1)
    items_BN = torch.from_numpy(rec.rank(users, 10, True)).long()
    benchmark.group = "paths to ten items/one user/cpu"
    paths, _ = benchmark(rec.reasons, users, items_BN)
    assert torch.equal(paths.tokens_BWM, rec.codes_IM[items_BN])
    benchmark.extra_info.update(environment, backend="reasons")


@pytest.mark.parametrize("threads", [1, 2])
def bench_threads(benchmark: Any, threads: int, environment: dict[str, Any]) -> None:
    """512 users on one thread and on two."""
    rec, users, before = recommender(), sequences(512), torch.get_num_threads()
    expected = rec.rank(users, 10, True)
    benchmark.group = "threads/512 users/cpu"
    torch.set_num_threads(threads)
    try:
        found = benchmark(rec.rank, users, 10, True)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found, expected)
    benchmark.extra_info.update({**environment, "threads": threads}, backend=f"{threads} threads")


def bench_job(benchmark: Any, environment: dict[str, Any], tmp_path: Path) -> None:
    """A batch job from Parquet to Parquet."""
    users = sequences(JOB_USERS if not benchmark.disabled else 500)
    items = pa.ListArray.from_arrays(pa.array(users.offsets.astype(np.int32)), pa.array(users.items.astype(np.int64)))
    pq.write_table(pa.table({"items": items}), tmp_path / "users.parquet")

    def job() -> dict[str, Any]:
        given, out = tmp_path / "users.parquet", tmp_path / "out"
        return recommend_to_folder(recommender(), given, out, resume=False, progress=False)

    benchmark.group = f"batch job/{len(users):,} users/cpu"
    done = benchmark.pedantic(job, rounds=1 if benchmark.disabled else 3, warmup_rounds=not benchmark.disabled)
    assert (done["users"], done["recommendations"]) == (len(users), 10 * len(users))
    benchmark.extra_info.update(environment, backend="exact")
    if not benchmark.disabled:
        benchmark.extra_info.update(users_per_second=len(users) / benchmark.stats.stats.median)


def bench_first_answer(benchmark: Any, environment: dict[str, Any], tmp_path: Path) -> None:
    """A process that imports reg4rec, loads a recommender and answers once, and the memory that it takes."""
    saved, ones = copy.copy(recommender()), [1.0] * CODEBOOKS
    health = Health(ITEMS, CODES, CODES, ones, ones, 0, 0, 0, 0, {"1": ITEMS}, [ones] * CODEBOOKS, ones, 0, 1, 1)
    saved.live = replace(saved.live, tokenizer=replace(saved.tokenizer, health=health))
    saved.save_pretrained(tmp_path)
    told: list[dict[str, Any]] = []
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run() -> None:
        command = [sys.executable, "-c", FIRST, str(tmp_path)]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
        told.append(json.loads(done.stdout))

    benchmark.group = f"first answer of a process/{ITEMS:,} items/cpu"
    benchmark.pedantic(run, rounds=1 if benchmark.disabled else 3)
    assert all(one["rows"] == 10 and one["imported_late"] == [] for one in told)
    measured = [name for name in told[0] if name.endswith(("_s", "_mib"))]
    medians = {name: statistics.median(one[name] for one in told) for name in measured}
    benchmark.extra_info.update(environment, backend="exact", **medians)
