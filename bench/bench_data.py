"""Preparing a dataset from Parquet files: seconds and peak memory for three sizes. Reading a CSV file of interactions,
compared with polars alone.

Users and items are drawn by popularity, ids are strings, some times are equal, items have a title and a category path.
The largest size is 10 million interactions with 1 million items; the target is 90 s and 6 GB on two cores. Without
`--all` the largest size is 10^5 interactions.
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
from reg4rec.data.lines import BadLines

pl = pytest.importorskip("polars")

SIZES = [100_000, *long(1_000_000, 10_000_000)]
MIN_INTERACTIONS = 2
CSV_ROWS = 1_000_000
PREPARE = """
import resource, sys, time
from bench.bench_data import prepare
began = time.perf_counter()
prepare(*sys.argv[1:])
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_log(path: Path, num_interactions: int) -> None:
    """Write interactions of a tenth as many users and items, drawn by a flattened Zipf law."""
    draw = np.random.default_rng(0)
    count = num_interactions // 10
    columns = {
        "user_id": pl.Series(_skewed(draw, count, num_interactions)).cast(pl.String),
        "item_id": "B" + pl.Series(_skewed(draw, count, num_interactions)).cast(pl.String).str.zfill(9),
        "timestamp": pl.Series(draw.integers(0, num_interactions, num_interactions)),
    }
    pl.DataFrame(columns).write_parquet(path)


def write_items(path: Path, num_items: int) -> None:
    """Write items with a title and one of about a thousand category paths each."""
    number = pl.Series(range(num_items))
    words = [(number // step % 97).cast(pl.String) for step in (1, 97, 9409)]
    pl.DataFrame({"item_id": "B" + number.cast(pl.String).str.zfill(9)}).with_columns(
        title="goods " + words[0] + " of kind " + words[1] + " from " + words[2],
        categories="shop > " + (number % 31).cast(pl.String) + " > " + (number % 1024).cast(pl.String),
    ).write_parquet(path)


def _skewed(draw: np.random.Generator, count: int, size: int) -> np.ndarray:
    return draw.permutation(count)[(count * draw.random(size) ** 1.5).astype(np.int64)]


def prepare(log: str | Path, items: str | Path, out: str | Path) -> Dataset:
    """The work of `reg4rec data prepare`: read, drop repetitions, k-core, sort, split by time, save."""
    dataset = read_interactions(log, items, min_interactions=MIN_INTERACTIONS).with_time_split()
    dataset.save(out)
    return dataset


@pytest.mark.benchmark(timer=time.perf_counter)
@pytest.mark.parametrize("size", SIZES)
def bench_prepare(size: int, benchmark: BenchmarkFixture, environment: dict[str, Any], tmp_path: Path) -> None:
    """One run in a separate process, so that its peak memory is that of the run alone."""
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


def read_log(path: Path) -> Any:
    """Read interactions and check their lines, ids and times."""
    from reg4rec.data import tables

    return tables.read_log(path, "user_id", "item_id", "timestamp", BadLines())


@pytest.fixture(scope="module")
def csv_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files of text ids and times in seconds; one of them has quoted ids."""
    folder = tmp_path_factory.mktemp("csv")
    number = pl.Series(range(CSV_ROWS))
    columns = {"user_id": pl.format("u{}", number % 20_011), "item_id": pl.format("i{}", number % 503)}
    log = pl.select(**columns, timestamp=1_600_000_000 + number)
    log.write_csv(folder / "plain.csv")
    log.write_csv(folder / "quoted.csv", quote_style="non_numeric")
    return folder


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("form", ["plain", "quoted"])
@pytest.mark.parametrize("backend", ["reg4rec", "polars"])
def bench_csv(form: str, backend: str, benchmark: BenchmarkFixture, environment: dict[str, Any], csv_log: Path) -> None:
    """CPU time of reading three columns; polars alone checks neither lines nor ids nor times."""
    path = csv_log / f"{form}.csv"
    benchmark.group = f"read csv, {form}/rows={CSV_ROWS}/cpu"
    log = benchmark.pedantic(read_log if backend == "reg4rec" else pl.read_csv, args=(path,), rounds=3)
    about = {"backend": backend, "timer": "process_time", "bytes": path.stat().st_size}
    if benchmark.stats is not None:  # None with --benchmark-disable
        about["microseconds_a_row"] = round(1e6 * benchmark.stats.stats.min / CSV_ROWS, 3)
    benchmark.extra_info.update(environment, **about)
    assert log.rows()[-1] == (f"u{(CSV_ROWS - 1) % 20_011}", f"i{(CSV_ROWS - 1) % 503}", 1_600_000_000 + CSV_ROWS - 1)
