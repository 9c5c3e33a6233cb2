"""The benches keep what they promise, and a loss against the kept result fails by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine import machine_name

pytest.importorskip("pytest_benchmark")
ROOT = Path(__file__).parents[1]
BENCHES = [f"bench/bench_ops.py::bench_forward[js_divergence-rows={rows}-eager]" for rows in (20, 160)]


def run_bench(storage: Path, *options: str) -> subprocess.CompletedProcess[str]:
    short = ("--benchmark-max-time=0.01", f"--benchmark-storage=file://{storage}")
    command = [sys.executable, "-m", "pytest", "-q", *BENCHES, "--device=cpu", *short, *options]
    # within a worker of pytest-xdist benches would switch themselves off
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

    record["stats"]["median"] /= 100
    other["stats"]["median"] *= 100
    kept.write_text(json.dumps(run), encoding="utf-8")
    done = run_bench(tmp_path, "--benchmark-compare", "--benchmark-compare-fail=median:10%")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    (fault,) = [line for line in said.splitlines() if "has failed PercentageRegressionCheck" in line]
    assert "bench_forward[js_divergence-rows=20-eager] (0001_kep" in fault
    assert "Field 'median'" in fault
