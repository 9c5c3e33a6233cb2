"""A minute of the campaign that `make attack` runs for an hour, in a separate process, since it forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_nothing_is_lost_and_nothing_is_doubted(tmp_path: Path) -> None:
    counts = {"kills": 12, "mutations": 140, "calls": 400, "threads": 200}
    options = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
    call = [sys.executable, "-W", "ignore", "-m", "tests.attacks", *options, "--out", str(tmp_path / "found.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"]["kills"] >= 12
    assert all(found["kills"]["files_compared"].values())
    assert sum(found["mutations"]["verdicts"].values()) == 140
    assert found["answers"]["calls_by_threads"] == 200
    assert all(found[name]["faults"] == [] for name in ("answers", "ops", "mutations", "kills"))
