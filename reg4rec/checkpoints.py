"""The folder of a training run: its settings, its checkpoints (written atomically), and the reason of a failure."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reg4rec import distributed
from reg4rec.errors import InputError, TokenizerCollapseError, warn
from reg4rec.optimizer import state_like
from reg4rec.storage import (
    entries,
    new_header,
    read_header,
    read_json,
    read_tensors,
    tensor_difference,
    write_header,
    write_json,
    write_tensors,
)
from reg4rec.writing import atomic_file, atomic_folder, check_own, check_replaceable, sweep

__all__ = [
    "Progress",
    "failure_recorded",
    "newest_progress",
    "open_folder",
    "read_metrics",
    "read_settings",
    "restore",
    "run_state",
    "save_checkpoint",
    "training_seconds",
]

FORMAT, VERSION = "reg4rec-checkpoint", 4
HEADER, STATE, BEST = "checkpoint.json", "state.safetensors", "best.safetensors"
BEST_VALUES = "best.values"
MAX_PROGRESS_BYTES = 1 << 32
"""Size limit of a checkpoint's header, which contains LADQ's history and grows with the run."""
RESULTS = {"tokenizer": "tokenizer", "pretrain": "recommender", "align": "recommender"}
"""By stage: the folder inside the run folder that receives its result."""
CONTENTS = {
    "tokenizer": ("health.json", "views", "*.safetensors"),
    "recommender": ("model.json", "items.parquet", "tokenizer", "*.safetensors"),
}
"""By result folder: patterns of its files, besides the header `<folder name>.json`."""


def open_folder(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Create or reopen the run folder `out`; InputError if it holds a run of another stage.

    With `resume`, InputError if its run had other settings. Without, everything of the earlier run is removed.
    """
    check_own(out, ["config.json"])
    path = out / "config.json"
    stored = read_settings(out) if path.exists() else None
    stage = settings.get("stage", "tokenizer")
    if stored is not None and (other := stored.get("stage", "tokenizer")) != stage:
        raise InputError(f"{out} holds a run of {other}, not of {stage}; choose another folder")
    result = RESULTS.get(stage)
    begun = bool(_checkpoints(out)) or (result is not None and (out / result).exists())
    found = stored if resume and begun and stored is not None else settings
    differing = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
    if differing:
        raise InputError(
            f"{out} holds a run with other settings ({', '.join(differing)} differ); "
            "choose another folder, the same settings, or start over with resume off"
        )
    starts_over = stored is not None and not resume
    if starts_over and result is not None and not (out / result).is_symlink():
        check_replaceable((out / result).resolve(), f"{result}.json", CONTENTS[result])
    distributed.barrier()  # until all processes have checked
    if distributed.is_first():
        sweep(out)
        sweep(out / "checkpoints")
        (out / "failure.json").unlink(missing_ok=True)
        if starts_over:
            _remove_results(out, result)
        if not resume or not _checkpoints(out):
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
            for name in ("metrics.jsonl", BEST):
                (out / name).unlink(missing_ok=True)
            write_json(path, settings)
    distributed.barrier()


def _remove_results(out: Path, result: str | None) -> None:
    """Remove the results of an earlier run; called before its settings are replaced, so they never disagree."""
    for name in ("tensorboard", *([] if result is None else [result])):
        if (out / name).is_symlink():  # its target does not belong to the run
            (out / name).unlink()
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in ("calibration.json", "align.json"):
        (out / name).unlink(missing_ok=True)


def read_settings(run: Path) -> dict[str, Any]:
    """The settings in a run's config.json; InputError if `run` is not a run folder."""
    path = run / "config.json"
    if not path.exists():
        raise InputError(f"{run} is not a run folder (config.json is missing); give a folder that a training wrote")
    settings = read_json(path)
    if "seed" not in settings:
        raise InputError(f"{path} was not written by a run of reg4rec; choose another folder")
    return settings


def run_state(run: Path) -> str:
    """The state of a run in words: finished, failed, or the step of its newest checkpoint."""
    if (run / "failure.json").exists():
        return "failed"
    checkpoints = _checkpoints(run)
    if not checkpoints:  # k-means takes no steps
        return "finished" if (run / "tokenizer").exists() else "no checkpoint yet"
    progress = newest_progress(run)
    if progress is None:
        return "no checkpoint can be read; start over with resume off"
    damaged = "" if checkpoints[0].name == f"step-{progress.step:09d}" else f"{checkpoints[0].name} is damaged; "
    if progress.finished:
        return f"{damaged}finished"
    return f"{damaged}at step {progress.step}; the same command resumes from there"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl, without an incomplete last line; InputError for any other damage."""
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
            raise InputError(f"{path} line {number} is damaged: not a JSON object with a step; remove that line")
        rows.append(row)
    return rows


@contextlib.contextmanager
def failure_recorded(out: str | Path | None) -> Iterator[None]:
    """Write the reason of a FloatingPointError or collapse to `out/failure.json`, for `reg4rec doctor`."""
    path = Path(out) / "failure.json" if out is not None and distributed.is_first() else None
    try:
        yield
    except (FloatingPointError, TokenizerCollapseError) as error:
        if path is not None:
            write_json(path, {"error": type(error).__name__, "reason": str(error)})
        raise


Restored = tuple["Progress", npt.NDArray[np.float64] | None]


@dataclass
class Progress:
    """How far a run is; saved as JSON in every checkpoint."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    worse_epochs: int = 0
    seconds: float = 0.0
    finished: bool = False
    stopped_early: bool = False
    controller: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Progress":
        """Progress from JSON; InputError for entries that are missing, unknown, of another type or out of range."""
        wanted = {name: type(value) for name, value in asdict(cls()).items()}
        found = {name: type(value) for name, value in stored.items()}
        if differing := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
            raise InputError(f"{', '.join(differing)}: missing, unknown or of another type")
        progress = cls(**stored)
        rows = [progress.sums, *progress.epochs]
        numbers = all(type(row) is dict and all(type(v) in (int, float) for v in row.values()) for row in rows)
        in_range = (
            0 <= progress.step_in_epoch <= progress.step
            and progress.epoch == len(progress.epochs)
            and -1 <= progress.best_epoch < max(0, progress.epoch)
            and 0 <= progress.worse_epochs <= progress.epoch
            and 0 <= progress.seconds < math.inf
        )
        if not numbers or not in_range:
            raise InputError("its counts contradict each other")
        return progress


def save_checkpoint(
    run: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best_values_B: npt.NDArray[np.float64] | None = None,
) -> None:
    """Write `run/checkpoints/step-N` and keep the previous checkpoint; all processes must call this, the first writes.

    Each checkpoint includes the weights of the best epoch and `best_values_B`, so a run can resume from either one.
    """
    tensors = {f"module.{name}": distributed.unsharded(t) for name, t in module.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": distributed.unsharded(t) for name, t in state.items()}
    tensors |= {f"random.{name}": state for name, state in distributed.random_states().items()}
    tensors |= {} if best_values_B is None else {BEST_VALUES: torch.from_numpy(best_values_B)}
    if not distributed.is_first():
        return
    folder = run / "checkpoints" / f"step-{progress.step:09d}"
    with atomic_folder(folder, HEADER) as fresh:
        write_tensors(fresh / STATE, tensors)
        if progress.best_epoch >= 0:
            _link(run / BEST, fresh / BEST)
        files = [file.name for file in fresh.iterdir()]
        write_header(fresh / HEADER, new_header(FORMAT, VERSION, **asdict(progress)), files)
    earlier = [other for other in _checkpoints(run) if other.name < folder.name]
    for other in _checkpoints(run):
        if other not in (folder, *earlier[:1]):
            shutil.rmtree(other)


def _link(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((run / "checkpoints").glob(f"step-{'[0-9]' * 9}"), reverse=True)


def restore(run: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Restored | None:
    """Load the newest readable checkpoint into module, optimizer and random generators.

    Returns the progress and the best epoch's monitored value per user (None if the stage has none); None for a run
    without a checkpoint. Damaged checkpoints are removed with a warning; InputError if none is readable.
    """
    damaged: dict[Path, InputError] = {}
    for folder in _checkpoints(run):
        try:
            found = progress, _ = _load(folder, module, optimizer)
        except InputError as error:
            damaged[folder] = error
            continue
        distributed.barrier()  # until all processes have read
        if distributed.is_first():
            for other, reason in damaged.items():
                warn(f"{reason}; training resumes from {folder.name}, the one before")
                shutil.rmtree(other)
            if progress.best_epoch >= 0:
                with atomic_file(run / BEST) as fresh:
                    _link(folder / BEST, fresh)
        distributed.barrier()
        return found
    if damaged:
        reason = next(iter(damaged.values()))
        raise InputError(f"{reason}; no other checkpoint can be read, so start over with resume off") from None
    return None


def _load(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Restored:
    """Load one checkpoint; InputError, before anything changes, if it is damaged or of another model."""
    progress = read_progress(folder)
    tensors: dict[str, dict[str, Tensor]] = {"module": {}, "optimizer": {}, "random": {}, "best": {}}
    try:
        for name, tensor in read_tensors(folder / STATE).items():
            kind, _, rest = name.partition(".")
            tensors[kind][rest] = tensor
        present = module.state_dict()
        _check_like(tensors["module"], present)
        state = _optimizer_state(tensors["optimizer"], optimizer)
        if progress.best_epoch >= 0:
            _check_like(read_tensors(folder / BEST), present)
        values_B = _best_values(tensors["best"])
        distributed.set_random_states(tensors["random"])  # raises before it changes anything
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{folder} is a damaged checkpoint or belongs to another model: {error}") from None
    module.load_state_dict({name: distributed.sharded_like(t, present[name]) for name, t in tensors["module"].items()})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress, values_B


def _best_values(tensors: Mapping[str, Tensor]) -> npt.NDArray[np.float64] | None:
    if not tensors:
        return None
    values_B = tensors["values"]
    if len(tensors) > 1 or values_B.dtype != torch.float64 or values_B.dim() != 1 or not values_B.isfinite().all():
        raise ValueError("the values of the best epoch are not a finite number for each user")
    return np.asarray(values_B.numpy())


def _check_like(tensors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
    if (difference := tensor_difference(tensors, present)) is not None:
        raise ValueError(difference)


def _optimizer_state(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by parameter number; ValueError for wrong names, shapes, dtypes or negative values.

    Fused AdamW does not check shapes: with a wrong one it would write outside its memory.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {name.partition(".")[0] for name in tensors}
    wanted: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters):
        if str(i) in known:
            step = tensors.get(f"{i}.step", torch.zeros(()))
            wanted |= {f"{i}.{name}": tensor for name, tensor in state_like(optimizer, parameter).items()}
            wanted[f"{i}.step"] = torch.zeros((), dtype=step.dtype if step.is_floating_point() else torch.float32)
    _check_like(tensors, wanted)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        if key != "exp_avg" and not bool((tensor >= 0).all()):
            raise ValueError(f"{key} of parameter {number} is below 0 or not a number")
        state.setdefault(int(number), {})[key] = distributed.sharded_like(tensor, parameters[int(number)])
    return state


def read_progress(folder: Path) -> Progress:
    """The progress that a checkpoint records; InputError if its header or list of files is damaged."""
    header = read_header(folder / HEADER, FORMAT, VERSION, most_bytes=MAX_PROGRESS_BYTES)
    try:
        progress = Progress.from_json(entries(header))
    except InputError as error:
        raise InputError(f"{folder / HEADER} is damaged: {error}") from None
    expected = {STATE} | ({BEST} if progress.best_epoch >= 0 else set())
    if header["files"].keys() != expected or folder.name != f"step-{progress.step:09d}":
        raise InputError(f"{folder} is damaged: it does not contain {' and '.join(sorted(expected))} of its step")
    return progress


def newest_progress(run: Path) -> Progress | None:
    """The progress recorded by the newest readable checkpoint; None without one."""
    for folder in _checkpoints(run):
        with contextlib.suppress(InputError):
            return read_progress(folder)
    return None


def training_seconds(runs: Iterable[Path]) -> float:
    """Total time that runs spent in their training loops, validation included."""
    return sum(progress.seconds for progress in map(newest_progress, runs) if progress is not None)
