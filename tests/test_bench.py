"""The benches keep their promises, a loss against a saved result fails by name, the summary shows the best row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine import machine_name
from bench.report import Record, grouped, sentences, slower_rows

pytest.importorskip("pytest_benchmark")
ROOT = Path(__file__).parents[1]
BENCHES = [f"bench/bench_ops.py::bench_forward[js_divergence-rows={rows}-eager]" for rows in (20, 160)]


def run_bench(storage: Path, *options: str) -> subprocess.CompletedProcess[str]:
    short = ("--benchmark-max-time=0.01", f"--benchmark-storage=file://{storage}")
    command = [sys.executable, "-m", "pytest", "-q", *BENCHES, "--device=cpu", *short, *options]
    # benches switch themselves off in a worker of pytest-xdist
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_loss_against_the_kept_result_fails_by_name(tmp_path: Path) -> None:
    assert run_bench(tmp_path, "--benchmark-save=kept").returncode == 0
    kept = tmp_path / machine_name() / "0001_kept.json"
    run = json.loads(kept.read_text(encoding="utf-8"))
    assert set(run["machine_info"]) <= {"machine", "cpu", "cores", "gpu", "system"}
    record, other = run["benchmarks"]
    assert record["group"] == "js_divergence/rows=20/cpu"
    assert record["extra_info"]["backend"] == "eager"
    assert record["extra_info"]["percent_of_floor"] > 0
    assert record["extra_info"]["bytes"] == 2 * 20 * 300 * 4 + 20 * 5
    assert "data" not in record["stats"]

    for figure in ("min", "median"):
        record["stats"][figure] /= 100
        other["stats"][figure] *= 100
    kept.write_text(json.dumps(run), encoding="utf-8")
    done = run_bench(tmp_path, "--benchmark-compare", "--benchmark-compare-fail=median:10%")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    (fault,) = [line for line in said.splitlines() if "has failed PercentageRegressionCheck" in line]
    assert "bench_forward[js_divergence-rows=20-eager] (0001_kep" in fault
    assert "Field 'median'" in fault

    summary = run_bench(tmp_path).stdout.splitlines()
    assert "1 of the 2 rows that are also in 0001_kept.json became slower by more than 15% (least times)." in summary
    (slower,) = [line for line in summary if "times as long" in line]
    assert slower.startswith("  js_divergence/rows=20/cpu: eager: ")


def row(backend: str, seconds: float, group: str = "scan/users=1/cpu", timer: str = "perf_counter") -> Record:
    extra_info = {"backend": backend, "threads": 1, "timer": timer}
    return {"group": group, "extra_info": extra_info, "stats": {"min": seconds, "median": 2 * seconds}}


def test_our_best_row_is_compared_with_eager_pytorch_and_the_best_rival() -> None:
    rows = [row("exact", 1e-3), row("paths", 4e-3), row("torch float32", 2e-3), row("faiss", 3e-3), row("onnx", 5e-3)]
    alone = [row("cpp", 1e-3, "other/x/cpu"), row("cpp bfloat16", 5e-4, "other/x/cpu")]
    assert list(sentences(grouped(rows))) == [
        "scan/users=1/cpu: exact 2 ms, 2.00 times as fast as eager PyTorch, 3.00 times as fast as faiss"
    ]
    assert list(sentences(grouped(alone))) == ["other/x/cpu: cpp 2 ms"]
    assert list(sentences(grouped([row("faiss", 1e-3), row("onnx", 1e-3)]))) == []


def test_a_row_is_slower_beyond_noise_and_by_the_same_timer() -> None:
    kept = {"benchmarks": [row("exact", 1e-3), row("paths", 1e-3), row("faiss", 1e-3, timer="process_time")]}
    now = grouped([row("exact", 1.1e-3), row("paths", 1.5e-3), row("faiss", 9e-3), row("new", 1e-3)])
    assert list(slower_rows(now, kept, "a.json")) == [
        "1 of the 2 rows that are also in a.json became slower by more than 15% (least times).",
        "  scan/users=1/cpu: paths: 1.5 ms, was 1 ms, 1.50 times as long",
    ]
    (none,) = slower_rows(grouped([row("exact", 1e-3)]), kept, "a.json")
    assert none == "None of the 1 rows that are also in a.json became slower by more than 15% (least times)."
    (other,) = slower_rows(grouped([row("faiss", 1e-3)]), kept, "a.json")
    assert other == "No row of this run is in a.json with the same timer and number of threads: nothing was compared."
