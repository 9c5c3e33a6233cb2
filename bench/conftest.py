"""Shared by all benches: the device, a fixture that times and records, JSON with the machine's name, and a summary.

`pytest bench/` runs the benches that fit into ten minutes on two cores, `pytest bench/ --all` runs all of them.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_benchmark.session
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import report
from bench.machine import copy_bandwidth, machine_name, operation_rate, peak_bytes, synchronized
from reg4rec.precision.format_costs import cpu_name

Timed = Callable[..., Any]


SETTINGS = {
    "--benchmark-max-time": "0.5",
    "--benchmark-min-rounds": 3,
    "--benchmark-columns": ["min", "median", "rounds"],
    "--benchmark-storage": f"file://{Path(__file__).parent / 'results'}",
}
"""Options of pytest-benchmark, unless the command line sets them."""
KEPT = pytest.StashKey[Path | None]()


def long(*values: object) -> list[Any]:
    """Parameters (values, or tuples for several parameters) of benches that take long."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.long) for v in values]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.addoption("--all", action="store_true", help="also run the benches that take long")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Results are in a folder named after the machine; the newest one there is from before this run."""
    pytest_benchmark.session.get_machine_id = machine_name
    for option, value in SETTINGS.items():
        if not any(arg.startswith(option) for arg in config.invocation_params.args):
            setattr(config.option, option.removeprefix("--").replace("-", "_"), value)
    storage = Path(config.option.benchmark_storage.removeprefix("file://"))
    config.stash[KEPT] = report.newest(storage / machine_name())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="takes long; `pytest bench/ --all` runs it"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Compare our best backends with others, and list rows that are slower than in the newest saved run."""
    failed = {test.nodeid for test in terminalreporter.stats.get("failed", ())}
    session = config._benchmarksession  # type: ignore[attr-defined]
    records = [
        bench.as_dict(include_data=False) for bench in session.benchmarks if bench and bench.fullname not in failed
    ]
    if not records:
        return
    for record in records:
        record["extra_info"].setdefault("timer", record["options"]["timer"])
    groups, kept = report.grouped(records), config.stash[KEPT]
    terminalreporter.section("reg4rec compared with eager PyTorch and the best rival (medians)")
    for line in report.sentences(groups):
        terminalreporter.write_line(line)
    terminalreporter.section("this run compared with the newest saved run")
    if kept is None:
        terminalreporter.write_line(f"No run of {machine_name()} is saved; `make bench` saves one.")
        return
    for line in report.slower_rows(groups, report.load(kept), kept.name):
        terminalreporter.write_line(line)


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    info = {"machine": machine_name(), "cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()}
    return info | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    for key in ("project", "branch"):  # they describe the checkout, not the code
        del commit_info[key]


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    for record in output_json["benchmarks"]:
        record["extra_info"]["timer"] = record.pop("options")["timer"]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def environment() -> dict[str, Any]:
    """The conditions of a measurement besides the code; `load` is the mean of the minute before the session began."""
    show = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(show, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


@pytest.fixture(scope="session")
def rates(device: str, request: pytest.FixtureRequest) -> dict[str, float]:
    """The machine's rates of moving bytes and of operations, measured once; they give the floor of a call's time."""
    timer = request.config._benchmarksession.options["timer"].target  # type: ignore[attr-defined]
    return {"bytes_per_s": copy_bandwidth(device, timer), "operations_per_s": operation_rate(device, timer)}


@pytest.fixture
def timed(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, environment: dict[str, Any]) -> Timed:
    """timed(function, group, backend, num_bytes, num_operations, device) -> the result of the function.

    Records for every bench: the time of the first call, percentiles 20, 50 and 80 of the rounds, peak memory, and the
    share of the floor. The floor is the time that this machine's rates need for the bytes (each moved once) or for the
    operations, whichever is longer.
    """

    def run(
        function: Callable[[], Any], group: str, backend: str, num_bytes: int, num_operations: int, device: str = "cpu"
    ) -> Any:
        benchmark.group, call = group, synchronized(function, device)
        if benchmark.disabled:
            return benchmark(call)
        began = time.perf_counter()
        call()
        first_s = time.perf_counter() - began
        peak = peak_bytes(call, device)
        output = benchmark(call)
        rates = request.getfixturevalue("rates")
        assert benchmark.stats is not None
        data = benchmark.stats.stats.data
        fifths = statistics.quantiles(data, n=5) if len(data) > 1 else data * 4
        floor_s = max(num_bytes / rates["bytes_per_s"], num_operations / rates["operations_per_s"])
        benchmark.extra_info.update(
            environment | rates,
            backend=backend,
            bytes=num_bytes,
            operations=num_operations,
            percent_of_floor=round(100 * floor_s / statistics.median(data), 2),
            peak_bytes=peak,
            first_call_s=first_s,
            p20_s=fifths[0],
            p80_s=fifths[3],
        )
        return output

    return run
