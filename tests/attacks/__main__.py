"""The whole campaign: `python -m tests.attacks --kills 500 --mutations 5000 --calls 200000 --out reliability.json`.

Prints a summary as JSON. If a fault was found, prints it with the seed that repeats it and exits with 1.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from reg4rec.storage import write_json
from tests.attacks import answers, kills, mutations, ops
from tests.attacks.workload import Material


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    for name, standard in (("kills", 500), ("mutations", 5000), ("calls", 200_000), ("threads", 4000), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=standard)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(1)
    found = {}
    with Material.made() as material:
        for name, attack in (
            ("answers", lambda: answers.attack(material, asked.threads, asked.threads // 100, asked.seed)),
            ("ops", lambda: _ops(asked.calls, asked.seed)),
            ("mutations", lambda: mutations.attack(material, asked.mutations, asked.seed)),
            ("kills", lambda: kills.attack(material, asked.kills, asked.seed)),
        ):
            began = time.monotonic()
            found[name] = {"seed": asked.seed, **attack(), "seconds": round(time.monotonic() - began)}
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if asked.out is not None:
        about = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
        write_json(asked.out, {**about, **found})
    sys.exit(any(part["faults"] for part in found.values()))


def _ops(calls: int, seed: int) -> dict[str, Any]:
    """Calls of the C++ ops, compared with the eager definition, half of them without vector instructions."""
    from reg4rec import _C

    found, faults, half = {}, [], calls // 2
    for isa, first in (("base", seed), ("", seed + half)):
        _C.select_isa(isa)
        counts = ops.attack(range(first, first + half))
        faults += counts.differ
        found[_C.isa()] = {"calls": counts.calls, **counts.outcomes, "ops": counts.ops}
    return {**found, "faults": faults}


if __name__ == "__main__":
    main()
