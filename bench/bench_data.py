"""Preparing interactions and items, from Parquet files to a dataset folder: seconds and peak memory over three sizes.

Users and items are drawn by popularity, ids are strings, times collide, items have a title and a category path. The
growth curve ends at 10 million interactions over 1 million items, whose target is 90 s and 6 GB on two
cores; without `--all`, it stops at 10^5.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import long
from reg4rec.data import Dataset, load_dataset, read_interactions

pl = pytest.importorskip("polars")

SIZES = [100_000, *long(1_000_000, 10_000_000)]
MIN_INTERACTIONS = 2
PREPARE = """
import resource, sys, time
from bench.bench_data import prepare
began = time.perf_counter()
prepare(*sys.argv[1:])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_log(path: Path, num_interactions: int) -> None:
    """A tenth as many items and users as interactions, drawn by a flattened Zipf law."""
    draw = np.random.default_rng(0)
    count = num_interactions // 10
    columns = {
        "user_id": pl.Series(_skewed(draw, count, num_interactions)).cast(pl.String),
        "item_id": "B" + pl.Series(_skewed(draw, count, num_interactions)).cast(pl.String).str.zfill(9),
        "timestamp": pl.Series(draw.integers(0, num_interactions, num_interactions)),
    }
    pl.DataFrame(columns).write_parquet(path)


def write_items(path: Path, num_items: int) -> None:
    """A title and one of about a thousand category paths for every item."""
    number = pl.Series(range(num_items))
    words = [(number // step % 97).cast(pl.String) for step in (1, 97, 9409)]
    pl.DataFrame({"item_id": "B" + number.cast(pl.String).str.zfill(9)}).with_columns(
        title="goods " + words[0] + " of kind " + words[1] + " from " + words[2],
        categories="shop > " + (number % 31).cast(pl.String) + " > " + (number % 1024).cast(pl.String),
    ).write_parquet(path)


def _skewed(draw: np.random.Generator, count: int, size: int) -> np.ndarray:
    return draw.permutation(count)[(count * draw.random(size) ** 1.5).astype(np.int64)]


def prepare(log: str | Path, items: str | Path, out: str | Path) -> Dataset:
    """What `reg4rec data prepare` does: read, drop repetitions, k-core, sort, split by time, save."""
    dataset = read_interactions(log, items, min_interactions=MIN_INTERACTIONS).with_time_split()
    dataset.save(out)
    return dataset


@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("size", SIZES)
def bench_prepare(size: int, benchmark: BenchmarkFixture, environment: dict[str, Any], tmp_path: Path) -> None:
    """One run in a process of its own, so that its peak memory is its own."""
    log, items, out = tmp_path / "log.parquet", tmp_path / "items.parquet", tmp_path / "data"
    write_log(log, size)
    write_items(items, size // 10)
    figures: list[float] = []

    def run() -> None:
        command = [sys.executable, "-c", PREPARE, *map(str, (log, items, out))]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        figures[:] = map(float, done.stdout.split())

    benchmark.group = f"prepare/interactions={size}/cpu"
    benchmark.pedantic(run, rounds=1)
    seconds, peak = figures
    files = log.stat().st_size + items.stat().st_size
    benchmark.extra_info.update(
        environment, backend="polars", bytes=files, seconds=round(seconds, 2), peak_bytes=int(peak)
    )
    dataset = load_dataset(out)
    assert 0.9 * size < len(dataset.sequences.items) <= size
    assert dataset.card["split"]["test_targets"] > 0
