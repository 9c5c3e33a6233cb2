"""The first minutes on a GPU: what only a GPU can say, the most important first, at most eight minutes.

    python -m bench.gpu_first --out FOLDER              # FOLDER/gpu_first.json grows with each step
    python -m bench.gpu_first --out FOLDER --dry        # on a CPU: every command, with few rows

Each step is a process with its own time limit, so that one that hangs costs only its own time. Build and install first
what pyproject.toml asks for; the script builds the extension in place and installs nothing. Weights are random: times,
equality with the CPU, launches and waits mean something.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.bench_recommend import histories, recommender_of
from bench.machine import synchronized
from bench.scale import build
from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.model.layers import attend
from reg4rec.recommend import Recommender
from reg4rec.storage import write_json
from tests.ops.cases import inputs, moved

SECONDS = 480
ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
OPS = "tests/ops/test_ops.py"
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONUNBUFFERED": "1", "REG4REC_CUDA": "ON"}
Facts = dict[str, Any]


class Step(NamedTuple):
    """A command, its time limit in seconds, and what takes its place on a CPU (None: the same command with `--dry`)."""

    name: str
    seconds: int
    command: list[str]
    dry: list[str] | None = None


def tests(*words: str) -> tuple[list[str], list[str]]:
    """Run GPU tests; dry: only collect them, which fails if a name is wrong."""
    run = [PYTHON, "-m", "pytest", "-q", "--maxfail=15", *words]
    return run, [*run, "--collect-only"]


def benches(*words: str) -> tuple[list[str], list[str]]:
    run = [PYTHON, "-m", "pytest", "-q", *words]
    return [*run, "--device=cuda"], [*run, "--device=cpu", "--benchmark-disable", "--collect-only"]


def steps(out: Path) -> Iterator[Step]:
    build_it = [PYTHON, "setup.py", "build_ext", "--inplace"]
    yield Step("build", 120, build_it, [PYTHON, "setup.py", "--version"])
    yield Step("CUDA tests", 60, *tests("-k", "cuda and test_values", OPS))
    for name in CHECKS:
        yield Step(name, 60, [PYTHON, "-m", "bench.gpu_first", "--check", name, "--out", str(out)])
    yield Step("Triton tests", 90, *tests("-k", "triton and test_values", OPS, "tests/ops/test_fp8_linear.py"))
    yield Step("graph tests", 60, *tests("tests/search/test_graphs.py"))
    yield Step("ops", 120, *benches("bench/bench_ops.py", f"--benchmark-json={out / 'ops.json'}"))
    yield Step("recommend", 60, *benches("bench/bench_recommend.py", "-k", "on_a_gpu"))
    yield Step("training", 60, *benches("bench/bench_train.py", "-k", "bench_train and small", "--all"))
    racing = [*tests("-k", "cuda and test_values and beam_step", OPS)[0]]
    yield Step("races", 60, ["compute-sanitizer", "--tool", "racecheck", *racing], [*racing, "--collect-only"])


def run_step(step: Step, out: Path, dry: bool, left: float) -> Facts:
    """What happened: exit status (None: out of time), seconds, and the end of the output."""
    command = (step.dry or [*step.command, "--dry"]) if dry else step.command
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1.0, min(step.seconds, left)),
            check=False,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, said = None, (late.stdout or b"").decode(errors="replace")
    except FileNotFoundError as missing:
        status, said = 127, str(missing)
    (out / f"{step.name.replace(' ', '_')}.log").write_text(said, encoding="utf-8")
    return {"name": step.name, "status": status, "seconds": time.monotonic() - began, "end": said[-600:]}


def same_lists(device: str, make: Callable[[str], Recommender], users: Sequences, k: int) -> float:
    """The share of places in which the device's lists equal the CPU's."""
    ours, theirs = (make(where).rank(users, k, True) for where in (device, "cpu"))
    return float((ours == theirs).mean())


def at(recommender: Recommender, device: str, **search: Any) -> Recommender:
    parts = recommender.model, recommender.tokenizer, recommender.items
    return Recommender(*parts, device=device, dtype="float32", **search)


def wide_search(device: str, dry: bool) -> Facts:
    """Lists of 200 items by paths, for which a step keeps 300 paths: on kernels and in a graph?"""
    k, rec = (20 if dry else 200), recommender_of(4)
    search = {"retriever": "paths", "num_beams": 3 * k // 2}
    there = at(rec, device, **search)
    objection = there.engine.graph_objection(there.config)
    share = same_lists(device, lambda where: at(rec, where, **search), histories(8), k)
    return {"objection": objection, "share of equal places": share, "ok": share > 0.99 and (dry or objection is None)}


def exact_ranking(device: str, dry: bool) -> Facts:
    """The exact lists of many users."""
    users = histories(64 if dry else 4096)
    share = same_lists(device, lambda where: at(recommender_of(4), where, retriever="exact"), users, 10)
    return {"share of equal places": share, "ok": share > 0.99}


def many_paths(device: str, dry: bool) -> Facts:
    """More paths at once than the second dimension of a grid has blocks."""
    shape = (2 if dry else 70_000, 2, 1, 32)
    q, k, v = (torch.randn(shape, device=device) for _ in range(3))
    return {"ok": bool(torch.isfinite(attend(q, k, v, None)).all())}


def equal_codewords(device: str, dry: bool) -> Facts:
    """A collapsed codebook: every distance is a tie, and each is decided in fp64."""
    rows, codes = (64, 64) if dry else (4096, 4096)
    latents, codebooks = torch.zeros(rows, 4, 64, device=device), torch.ones(4, codes, 64, device=device)
    call = synchronized(lambda: ops.mpq_quantize(latents, codebooks), device)
    call()
    began = time.perf_counter()
    ids_BM, _ = call()
    return {"seconds": time.perf_counter() - began, "ok": not bool(ids_BM.any())}


def item_scores(device: str, dry: bool) -> Facts:
    """The best of 10^6 items by their tokens, against the eager definition."""
    args = moved(inputs("item_topk", (2, 3, 16, 500, 10) if dry else (64, 4, 256, 1_000_000, 100)), device)
    found = ops.item_topk(*args)
    with ops.use_backend("eager"):
        right = ops.item_topk(*args)
    return {"ok": all(torch.equal(one, other) for one, other in zip(found, right, strict=True))}


def launches(device: str, dry: bool) -> Facts:
    """Kernels, copies and waits of a recommendation for one user, by retriever."""
    found: Facts = {"ok": True}
    for retriever in ("exact", "paths"):
        rec, users = at(recommender_of(4), device, retriever=retriever), histories(1)
        rec.rank(users, 10, True)
        with torch.profiler.profile() as profiler:
            rec.rank(users, 10, True)
        names = [event.name for event in profiler.events()]
        found[retriever] = {
            "launches": sum("LaunchKernel" in name for name in names),
            "graphs": sum("GraphLaunch" in name for name in names),
            "waits": sum("Synchronize" in name for name in names),
            "ops": sum(name.startswith("aten::") for name in names),
        }
    return found


def latency(device: str, dry: bool) -> Facts:
    """Milliseconds of a batch, by catalog, retriever and number of users."""
    found: Facts = {"ok": True}
    for num_items in (1000,) if dry else (10_000, 1_000_000):
        whole, rng = build(num_items), np.random.default_rng(0)
        for retriever in ("exact", "paths"):
            rec = at(whole, device, retriever=retriever)
            for count in (1,) if dry else (1, 64, 256, 2048):
                users = Sequences.from_lists(rng.integers(0, num_items, (count, 20)).tolist())
                taken = []
                for _ in range(2 if dry else 12):
                    began = time.perf_counter()
                    rec.rank(users, 10, True)
                    taken.append(1e3 * (time.perf_counter() - began))
                found[f"{num_items:,} items, {retriever}, {count} users"] = median(taken[2:] or taken)
    return found


CHECKS: dict[str, Callable[[str, bool], Facts]] = {
    check.__name__: check
    for check in (wide_search, exact_ranking, many_paths, equal_codewords, item_scores, launches, latency)
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--dry", action="store_true", help="on a CPU, with few rows")
    options.add_argument("--check", choices=CHECKS, help="only this check, in this process")
    chosen = options.parse_args()
    device = "cpu" if chosen.dry else "cuda"
    if chosen.check:
        facts = CHECKS[chosen.check](device, chosen.dry)
        print(json.dumps(facts))
        return 0 if facts["ok"] else 1
    chosen.out.mkdir(parents=True, exist_ok=True)
    ends, found = time.monotonic() + SECONDS, []
    for step in steps(chosen.out):
        found.append(run_step(step, chosen.out, chosen.dry, ends - time.monotonic()))
        machine = "CPU" if chosen.dry else torch.cuda.get_device_name()
        write_json(chosen.out / "gpu_first.json", {"machine": machine, "torch": torch.__version__, "steps": found})
        print(f"{step.name}: {found[-1]['status']} in {found[-1]['seconds']:.1f} s", flush=True)
    return int(any(step["status"] != 0 for step in found))


if __name__ == "__main__":
    sys.exit(main())
