"""The one training loop behind every stage: step, log, validate, checkpoint, resume.

A run folder holds `config.json` (the stage's settings), `metrics.jsonl` (a line every `log_every` steps and one per
epoch), `checkpoints/step-N/` (weights, optimizer, random states) and `best.safetensors`. A killed run resumes from its
last checkpoint; on the CPU the final weights are bit-identical to those of an uninterrupted run.
Under torchrun the processes train together (`reg4rec.distributed`); any number of them can resume any checkpoint.
"""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reg4rec import distributed
from reg4rec.checkpoints import Progress, failure_recorded, open_folder, read_metrics, restore, save_checkpoint
from reg4rec.errors import InputError
from reg4rec.optimizer import RowAdamW
from reg4rec.progress import Bar, bar, quiet, say
from reg4rec.run import Run
from reg4rec.settings import check_settings
from reg4rec.statistics import is_higher
from reg4rec.storage import read_tensors, write_tensors
from reg4rec.writing import atomic_file, disk_errors_explained, exclusive_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["ERRORS", "Controller", "LoopConfig", "LoopResult", "Stage", "Validation", "train"]

WATCHING = ("log_every", "checkpoint_seconds", "tensorboard", "parallel")
"""Settings that may differ when a run is resumed, because they do not affect the weights."""
ERRORS = 2.0
"""An epoch counts as worse if it is below the best one by more than this number of standard errors."""
LINES_SHOWN = 12
"""Number of epochs that print a line; metrics.jsonl has all."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast a stage trains."""

    epochs: int = 20
    """passes over the training data"""
    learning_rate: float = 1e-3
    """peak learning rate; the schedule is a linear warm-up, then a cosine to zero"""
    weight_decay: float = 0.0
    """AdamW's weight decay, applied to matrices only"""
    warmup_fraction: float = 0.05
    """fraction of all steps used for warm-up"""
    max_grad_norm: float = 1.0
    """gradients are clipped to this norm"""
    patience: int = 0
    """stop after this number of consecutive epochs that are worse than the best one by more than two standard errors
    of the paired difference over the users; 0 never stops early"""
    log_every: int = 50
    """number of steps between two lines of metrics.jsonl"""
    updates_per_batch: int = 1
    """number of optimizer steps on each batch"""
    checkpoint_seconds: float = 60.0
    """seconds between checkpoints within an epoch; every epoch also ends with one"""
    parallel: distributed.ParallelKind = "ddp"
    """data parallelism under torchrun. ddp: every process has the whole model; fsdp: weights and optimizer state are
    sharded over the processes"""
    tensorboard: bool = False
    """also write the metrics for TensorBoard, into RUN/tensorboard (extra `tensorboard`)"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("epochs", self.epochs >= 1, "1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("warmup_fraction", 0 <= self.warmup_fraction <= 1, "between 0 and 1"),
            ("max_grad_norm", self.max_grad_norm > 0, "positive"),
            ("patience", self.patience >= 0, "0 or more"),
            ("log_every", self.log_every >= 1, "1 or more"),
            ("updates_per_batch", self.updates_per_batch >= 1, "1 or more"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, "0 or more"),
            ("parallel", self.parallel in get_args(distributed.ParallelKind), "ddp or fsdp"),
        )


class Validation(NamedTuple):
    """Metrics of an epoch by name, and the monitored metric per user (`values_B`, the same users in every epoch).

    Without `values_B` every epoch that is not better than the best one counts as worse.
    """

    metrics: dict[str, float]
    values_B: npt.NDArray[np.float64] | None = None


class Stage(Protocol):
    """What the loop needs from a stage. State that must survive a kill belongs in `module`."""

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def monitor(self) -> str:
        """The metric of `end_epoch` that selects the best weights (higher is better); "" keeps the last weights."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that identify a run; a run with other settings is not resumed."""
        ...

    def batches(self, epoch: int) -> Sequence[Any]:
        """The batches of an epoch; they depend on the epoch only, not on the number of processes."""
        ...

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Scalars of one batch; `loss` is minimized, all are logged.

        In a group each process computes its share of the rows, and `loss` is the mean over the rows of all processes.
        """
        ...

    def end_epoch(self, epoch: int) -> Validation:
        """Validate, and optionally change the module; runs before the epoch's checkpoint."""
        ...


class Controller(Protocol):
    """Observes the steps of a run and may change how its module computes; checkpoints save its state as JSON."""

    def before_forward(self, step: int) -> None: ...

    def after_backward(self, step: int, loss: Tensor) -> None: ...

    def report(self) -> dict[str, float]:
        """Values to add to the epoch's line of metrics."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass
class LoopResult:
    """The result of a finished run: the epoch whose weights the module now has, and one row of metrics per epoch.

    `best_values_B` is the monitored metric per user in the best epoch, None if the stage has none.
    """

    best_epoch: int
    epochs: list[dict[str, float]]
    seconds: float
    stopped_early: bool
    best_values_B: npt.NDArray[np.float64] | None


def train(stage: Stage, config: LoopConfig, run: Run = Run(), controller: Controller | None = None) -> LoopResult:
    """Train `stage.module` in place, on its device; it ends with its best weights.

    `run.resume` resumes from the newest checkpoint in the run folder, if any; InputError if that run had other settings
    or another process is using the folder. Torch's global random state is restored afterwards.
    """
    alone = (
        exclusive_folder(run.folder) if run.folder is not None and distributed.is_first() else contextlib.nullcontext()
    )
    with alone, failure_recorded(run.folder), torch.random.fork_rng(), distributed.lost_process_explained():
        distributed.seed(run.seed)
        return _Training(stage, config, run, controller).train()


def make_optimizer(module: nn.Module, config: LoopConfig) -> RowAdamW:
    """AdamW with weight decay on parameters of two and more dimensions only.

    The parameters that the module names in `row_tables`, if it has that attribute, are updated row by row.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    tables = [named.pop(name) for name in getattr(module, "row_tables", ())]
    params = list(named.values())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
        {"params": tables, "weight_decay": config.weight_decay, "rows": True},
    ]
    fused = not any(hasattr(p, "full_tensor") for p in params)  # fused mixes no sharded tensors with FSDP2's scalars
    return RowAdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, fused=fused, foreach=None if fused else False
    )


def schedule(step: int, total: int, config: LoopConfig) -> float:
    """The learning rate of a step (from 0): linear warm-up, then a cosine to zero."""
    warmup = max(1, round(total * config.warmup_fraction))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def open_board(out: Path | None, first_step: int) -> "SummaryWriter":
    """A TensorBoard writer for the run folder; it hides what a killed run wrote after its last checkpoint."""
    if out is None:
        raise InputError("tensorboard writes into the run folder; give one (out), or turn tensorboard off")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "the package tensorboard is missing; pip install 'reg4rec[tensorboard]', or turn it off"
        ) from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=first_step + 1)


class _Training:
    def __init__(self, stage: Stage, config: LoopConfig, run: Run, controller: Controller | None):
        self.stage, self.config, self.run, self.out, self.controller = stage, config, run, run.folder, controller
        learning = {name: value for name, value in asdict(config).items() if name not in WATCHING}
        self.settings = json.loads(json.dumps({**stage.settings, "loop": learning, "seed": run.seed}))
        self.parallel = distributed.Parallel(stage.module, stage.loss, config.parallel)
        self.optimizer = make_optimizer(stage.module, config)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.best_values_B: npt.NDArray[np.float64] | None = None
        self.started = self.last_checkpoint = time.monotonic()
        self.board: SummaryWriter | None = None

    def train(self) -> LoopResult:
        show = self.run.progress and distributed.is_first()
        if self.out is not None:
            open_folder(self.out, self.settings, self.run.resume)
            self._restore(self.out)
        if self.config.tensorboard and distributed.is_first():
            self.board = open_board(self.out, self.progress.step)
        p, self.started = self.progress, time.monotonic() - self.progress.seconds
        while not p.finished:
            self._epoch(show)
            p.stopped_early = 0 < self.config.patience <= p.worse_epochs
            p.finished = p.stopped_early or p.epoch >= self.config.epochs
            self._checkpoint()
        self._load_best()
        return LoopResult(p.best_epoch, p.epochs, p.seconds, p.stopped_early, self.best_values_B)

    def _epoch(self, show: bool) -> None:
        p, module = self.progress, self.stage.module
        self.parallel.gather()
        batches = self.stage.batches(p.epoch)
        label = f"{self.stage.name} {p.epoch + 1}/{self.config.epochs}"
        module.train()
        started = time.monotonic()
        self._run_batches(batches, label, show)
        self.optimizer.settle()
        module.eval()
        self.parallel.gather()
        means = {name: value / max(1, len(batches)) for name, value in p.sums.items()}
        means["epoch_seconds"] = time.monotonic() - started
        if self.controller is not None:
            means |= self.controller.report()
        with quiet(not show):
            validation = self.stage.end_epoch(p.epoch)
        means |= validation.metrics
        self._log({"step": p.step, "epoch": p.epoch, **means})
        if show and (p.epoch + 1) % math.ceil(self.config.epochs / LINES_SHOWN) == 0:
            say("  ".join([label, *(f"{name} {value:.4g}" for name, value in means.items())]))
        p.epochs.append(means)
        self._keep_if_best(means, validation.values_B)
        p.epoch, p.step_in_epoch, p.sums = p.epoch + 1, 0, {}

    def _run_batches(self, batches: Sequence[Any], label: str, show: bool) -> None:
        """Train on the remaining batches of the epoch, with a progress bar."""
        p, total = self.progress, len(batches) * self.config.epochs
        running: dict[str, Tensor] = {}
        with bar(label, len(batches), p.step_in_epoch, show) as steps:
            while p.step_in_epoch < len(batches):
                self.parallel.gather()
                values = self._step(batches[p.step_in_epoch], total)
                for name, value in values.items():
                    running[name] = running.get(name, 0.0) + value.detach()
                steps.update()
                at_end = p.step_in_epoch == len(batches)
                due = distributed.decided_by_first(
                    time.monotonic() - self.last_checkpoint >= self.config.checkpoint_seconds
                )
                if p.step % self.config.log_every == 0 or at_end or due:
                    self._fold(running, values, steps)
                if due and not at_end:
                    self._checkpoint()

    def _step(self, batch: Any, total: int) -> dict[str, Tensor]:
        p = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = schedule(p.step, total, self.config)
        for _ in range(self.config.updates_per_batch):
            if self.controller is not None:
                self.controller.before_forward(p.step)
            values = self.parallel(batch)
            self.optimizer.zero_grad(set_to_none=True)
            values["loss"].backward()
            if self.controller is not None:
                self.controller.after_backward(p.step, values["loss"])
            distributed.clip_grad_norm(self.stage.module, self.config.max_grad_norm)
            self.optimizer.step()
        p.step, p.step_in_epoch = p.step + 1, p.step_in_epoch + 1
        return values

    def _fold(self, running: dict[str, Tensor], values: dict[str, Tensor], steps: Bar) -> None:
        """Add the device's running sums to the epoch's (the only synchronization), log, and check the loss.

        FloatingPointError if the loss is not finite.
        """
        p = self.progress
        for name, value in distributed.average({name: float(value) for name, value in running.items()}).items():
            p.sums[name] = p.sums.get(name, 0.0) + value
        running.clear()
        now = distributed.average({name: float(value.detach()) for name, value in values.items()})
        if not math.isfinite(p.sums["loss"]):
            raise FloatingPointError(
                f"{self.stage.name}: the loss became {now['loss']} before step {p.step}; "
                f"lower learning_rate (now {self.config.learning_rate}) or look for extreme input vectors"
            )
        steps.set_postfix({"loss": f"{now['loss']:.4f}"})
        self._log({"step": p.step, "lr": self.optimizer.param_groups[0]["lr"], **now})

    def _log(self, row: dict[str, float]) -> None:
        if self.out is not None and distributed.is_first():
            path = self.out / "metrics.jsonl"
            with disk_errors_explained(path), path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(f"{'epoch' if 'epoch' in row else 'step'}/{name}", value, row["step"])
            self.board.flush()

    def _keep_if_best(self, means: dict[str, float], values_B: npt.NDArray[np.float64] | None) -> None:
        p, monitor = self.progress, self.stage.monitor
        if monitor and p.best_epoch >= 0 and not means[monitor] > p.epochs[p.best_epoch][monitor]:
            known = values_B is not None and self.best_values_B is not None
            worse = not known or is_higher(self.best_values_B, values_B, ERRORS)  # type: ignore[arg-type]
            p.worse_epochs = p.worse_epochs + 1 if worse else 0
            return
        p.best_epoch, p.worse_epochs, self.best_values_B = p.epoch, 0, values_B
        weights = {name: distributed.unsharded(t).detach() for name, t in self.stage.module.state_dict().items()}
        if self.out is None:
            self.best = {name: t.clone() for name, t in weights.items()}
        elif distributed.is_first():
            write_tensors(self.out / "best.safetensors", weights)

    def _load_best(self) -> None:
        distributed.barrier()
        best = read_tensors(self.out / "best.safetensors") if self.out is not None else self.best
        assert best is not None
        self.parallel.finish(best)

    def _checkpoint(self) -> None:
        self.last_checkpoint = time.monotonic()
        self.progress.seconds = self.last_checkpoint - self.started
        if self.controller is not None:
            self.progress.controller = self.controller.state()
        if self.out is not None:
            save_checkpoint(self.out, self.stage.module, self.optimizer, self.progress, self.best_values_B)

    def _restore(self, out: Path) -> None:
        found = restore(out, self.stage.module, self.optimizer)
        if found is None:
            return
        self.progress, self.best_values_B = found
        if self.controller is not None:
            self.controller.restore(self.progress.controller)
        if distributed.is_first():
            self._cut_metrics()

    def _cut_metrics(self) -> None:
        """Drop the lines written after the checkpoint, because their steps will run again."""
        assert self.out is not None
        kept = [row for row in read_metrics(self.out) if row["step"] <= self.progress.step]
        with atomic_file(self.out / "metrics.jsonl") as fresh:
            fresh.write_text("".join(map(_line, kept)), encoding="utf-8")


def _line(row: dict[str, float]) -> str:
    return json.dumps(row) + "\n"
