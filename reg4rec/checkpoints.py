"""A training run's folder: whose it is, why it gave itself up, and its checkpoints, each written whole."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reg4rec import distributed
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.storage import (
    atomic_folder,
    check_replaceable,
    is_temporary,
    new_header,
    read_header,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

__all__ = [
    "load_checkpoint",
    "newest_checkpoint",
    "open_folder",
    "read_counters",
    "read_metrics",
    "read_settings",
    "recorded",
    "run_state",
    "save_checkpoint",
    "sweep",
]

FORMAT, VERSION = "reg4rec-checkpoint", 2
MAX_COUNTER_BYTES = 1 << 32
"""LADQ's history grows with the run."""
WRITTEN = ("checkpoints", "metrics.jsonl", "best.safetensors", "dataset.json", "recommender.json", "tokenizer.json")
"""What a run writes or is made of: where one of these stands without its config.json, a folder is something else."""
RESULTS = {"tokenizer": "tokenizer", "pretrain": "recommender", "align": "recommender"}
"""The folder that a stage makes of its run."""
CONTENTS = {
    "tokenizer": ("health.json", "views", "*.safetensors"),
    "recommender": ("model.json", "items.parquet", "tokenizer", "*.safetensors"),
}
"""What lies in such a folder beside the header, which is called as it."""


def open_folder(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Make `out` the run folder of these settings; InputError if, with `resume`, it is that of others.

    Without `resume` the run starts over, and nothing stays of the one that was there; that must be of the same stage.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} was to become a run folder, but a file of that name is there; choose another name")
    path = out / "config.json"
    stored = read_settings(out) if path.exists() else None
    if stored is None and (taken := [name for name in WRITTEN if (out / name).exists()]):
        raise InputError(f"{out} is no run folder, but holds {taken[0]}, which would be lost; choose another folder")
    stage = settings.get("stage", "tokenizer")
    if stored is not None and (other := stored.get("stage", "tokenizer")) != stage:
        raise InputError(f"{out} holds a run of {other}, not of {stage}; choose another folder")
    found = stored if resume and stored is not None else settings
    differing = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
    if differing:
        raise InputError(
            f"{out} holds a run with other settings ({', '.join(differing)} differ); "
            "choose another folder, the same settings, or start over with resume off"
        )
    starts_over = stored is not None and not resume
    result = RESULTS.get(stage) if starts_over else None
    if result is not None and not (out / result).is_symlink():
        check_replaceable((out / result).resolve(), f"{result}.json", CONTENTS[result])
    distributed.barrier()  # all have looked
    if distributed.is_first():
        sweep(out)
        (out / "failure.json").unlink(missing_ok=True)
        if starts_over:
            _remove_results(out, result)
        if not resume or newest_checkpoint(out) is None:
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
            for name in ("metrics.jsonl", "best.safetensors"):
                (out / name).unlink(missing_ok=True)
            write_json(path, settings)
    distributed.barrier()


def _remove_results(out: Path, result: str | None) -> None:
    """Before the settings are replaced, so that a folder never holds what others than its own made."""
    for name in ("tensorboard", *([] if result is None else [result])):
        if (out / name).is_symlink():  # what it points to is not the run's
            (out / name).unlink()
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in ("calibration.json", "align.json"):
        (out / name).unlink(missing_ok=True)


def read_settings(run: Path) -> dict[str, Any]:
    """What makes it the same run, of its config.json; InputError for a folder that is no run's."""
    path = run / "config.json"
    if not path.exists():
        raise InputError(f"{run} is no run folder (config.json is missing); give what a training command wrote")
    settings = read_json(path)
    if "seed" not in settings:
        raise InputError(f"{path} is of something else than a run of reg4rec; choose another folder")
    return settings


def run_state(run: Path) -> str:
    """How a run stands: finished, failed, or at which step it was when it was last seen."""
    if (run / "failure.json").exists():
        return "failed"
    newest = newest_checkpoint(run)
    if newest is None:  # k-means takes no steps
        return "finished" if (run / "tokenizer").exists() else "no checkpoint yet"
    counters = read_counters(newest)
    return "finished" if counters["finished"] else f"at step {counters['step']}; the same command goes on from there"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl; the last line of a killed run may be cut. InputError for any other damage."""
    path = run / "metrics.jsonl"
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else [], start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line.decode())
        except ValueError:
            row = None
        if not isinstance(row, dict) or "step" not in row:
            raise InputError(f"{path} line {number} is damaged: no JSON object with a step; remove that line")
        rows.append(row)
    return rows


@contextlib.contextmanager
def recorded(out: str | Path | None) -> Iterator[None]:
    """Leave why a run gave itself up in `out/failure.json`, for `reg4rec doctor`."""
    path = Path(out) / "failure.json" if out is not None and distributed.is_first() else None
    try:
        yield
    except (FloatingPointError, TokenizerCollapseError) as error:
        if path is not None:
            write_json(path, {"error": type(error).__name__, "reason": str(error)})
        raise


def save_checkpoint(
    run: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, counters: dict[str, Any]
) -> None:
    """Write `run/checkpoints/step-N`, then remove the older ones; a group calls it together, one of it writes."""
    tensors = {f"module.{name}": distributed.whole(t) for name, t in module.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": distributed.whole(t) for name, t in state.items()}
    tensors |= {f"random.{name}": state for name, state in distributed.random_states().items()}
    if not distributed.is_first():
        return
    folder = run / "checkpoints" / f"step-{step:09d}"
    with atomic_folder(folder, "checkpoint.json") as fresh:
        write_tensors(fresh / "state.safetensors", tensors)
        write_json(fresh / "checkpoint.json", new_header(FORMAT, VERSION, **counters))
    for older in folder.parent.glob("step-*"):
        if older != folder:
            shutil.rmtree(older)


def newest_checkpoint(run: Path) -> Path | None:
    """The last whole checkpoint of a run, if it has any."""
    return max((run / "checkpoints").glob("step-*"), default=None)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the saved state into module, optimizer and torch's random generators, and return the counters.

    InputError if the checkpoint is of another model or damaged.
    """
    counters = read_counters(folder)
    tensors = read_tensors(folder / "state.safetensors")
    weights = {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}
    present = module.state_dict()
    try:
        module.load_state_dict({name: distributed.cut_like(t, present.get(name)) for name, t in weights.items()})
    except RuntimeError as error:
        raise InputError(f"{folder} is a checkpoint of another model: {error}") from None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = distributed.cut_like(tensor, parameters[int(i)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    distributed.set_random_states({n.removeprefix("random."): t for n, t in tensors.items() if n.startswith("random.")})
    return counters


def read_counters(folder: Path) -> dict[str, Any]:
    """The counters alone of a checkpoint."""
    header = read_header(folder / "checkpoint.json", FORMAT, VERSION, most_bytes=MAX_COUNTER_BYTES)
    return {name: header[name] for name in header.keys() - new_header(FORMAT, VERSION).keys()}


def sweep(run: Path) -> None:
    """Remove what a killed run left under temporary names."""
    for leftover in filter(is_temporary, [*run.glob(".*.tmp"), *(run / "checkpoints").glob(".*.tmp")]):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
