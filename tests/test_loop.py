"""The training loop: exact resume, early stopping, schedule, and what it leaves alone."""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reg4rec import loop
from reg4rec.checkpoints import read_metrics, run_state
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.run import Run
from reg4rec.storage import read_tensors, write_tensors
from reg4rec.writing import exclusive_folder
from tests.artifacts import reseal

STEPS = 5  # in an epoch
CONFIG = LoopConfig(epochs=4, learning_rate=1e-2, weight_decay=0.1, log_every=2, checkpoint_seconds=0.0)


class Killed(BaseException):
    """Stands for anything that ends a run from outside."""


class Regression:
    """A small stage with dropout, so that the random state counts; `scores` are the validation values of its epochs."""

    name = "regression"

    def __init__(
        self,
        init: int = 0,
        killed_at: int = -1,
        killed_in_epoch: int = -1,
        scores: Sequence[float] = (),
        settings: dict[str, Any] | None = None,
        after_loss: Callable[[int, Tensor], Tensor] = lambda step, loss: loss,
        values: Sequence[Sequence[float]] = (),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(init)
            self.module: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.4), nn.Linear(6, 1))
        self.monitor = "score" if scores or values else ""
        self.settings = settings or {"stage": "regression"}
        self.killed_at, self.killed_in_epoch = killed_at, killed_in_epoch
        self.scores, self.after_loss, self.values = (
            scores or [float(np.mean(row)) for row in values],
            after_loss,
            values,
        )
        self.steps_run = 0
        self.weights_of_epochs: list[dict[str, Tensor]] = []

    def batches(self, epoch: int) -> list[Tensor]:
        draw = torch.Generator().manual_seed(epoch)
        return list(torch.randn(STEPS, 8, 4, generator=draw))

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        if self.steps_run == self.killed_at:
            raise Killed
        error = (self.module(batch)[:, 0] - batch.sum(1)).square().mean()
        loss = self.after_loss(self.steps_run, error)
        self.steps_run += 1
        return {"loss": loss, "double": 2 * loss}

    def end_epoch(self, epoch: int) -> loop.Validation:
        if epoch == self.killed_in_epoch:
            raise Killed
        self.weights_of_epochs.append({name: t.clone() for name, t in self.module.state_dict().items()})
        if not self.scores:
            return loop.Validation({})
        return loop.Validation({"score": self.scores[epoch]}, np.array(self.values[epoch]) if self.values else None)


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what a clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "epoch_seconds"} for row in rows]


def train(stage: Regression, out: Path | None, config: LoopConfig = CONFIG, **options: Any) -> loop.LoopResult:
    return loop.train(stage, config, Run(out, progress=False, **options))


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize(
    "kill",
    [
        {"killed_at": 0},
        {"killed_at": 1},
        {"killed_at": 7},
        {"killed_at": 2 * STEPS},
        {"killed_in_epoch": 1},
        {"killed_at": 4 * STEPS - 1},
    ],
    ids=["before anything", "after one step", "inside an epoch", "between epochs", "while validating", "at the end"],
)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, kill: dict[str, int], checkpoint_seconds: float) -> None:
    config = replace(CONFIG, checkpoint_seconds=checkpoint_seconds)
    whole = Regression()
    expected = train(whole, tmp_path / "whole", config)

    killed = Regression(**kill)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        train(killed, tmp_path / "killed", config)
    # a restarted process has other weights until it reads the checkpoint, unless there is none
    resumed = Regression(init=0 if not list((tmp_path / "killed").glob("checkpoints/step-*")) else 9)
    found = train(resumed, tmp_path / "killed", config)

    assert same_weights(resumed.module.state_dict(), whole.module.state_dict())
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert found.best_epoch == expected.best_epoch == 3
    assert [e["loss"] for e in found.epochs] == [e["loss"] for e in expected.epochs]
    assert killed.steps_run + resumed.steps_run >= 4 * STEPS
    if checkpoint_seconds == 0.0 and "killed_at" in kill:
        assert killed.steps_run + resumed.steps_run == 4 * STEPS


def test_killed_twice_and_half_a_line_written(tmp_path: Path) -> None:
    train(whole := Regression(), tmp_path / "whole")
    for killed_at in (3, 6):
        with pytest.raises(Killed):
            train(Regression(killed_at=killed_at), tmp_path / "killed")
        with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "lo')
    train(resumed := Regression(), tmp_path / "killed")
    assert same_weights(resumed.module.state_dict(), whole.module.state_dict())
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def test_a_finished_run_is_read_and_not_trained(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.2, 0.3]
    first = train(done := Regression(scores=scores), tmp_path)
    lines = rows_of(tmp_path)
    again = train(reader := Regression(init=5, scores=scores), tmp_path)
    assert reader.steps_run == 0
    assert same_weights(reader.module.state_dict(), done.module.state_dict())
    assert (again.best_epoch, again.epochs, again.stopped_early) == (
        first.best_epoch,
        first.epochs,
        first.stopped_early,
    )
    assert rows_of(tmp_path) == lines


def test_without_resume_a_folder_starts_over(tmp_path: Path) -> None:
    train(first := Regression(), tmp_path)
    train(second := Regression(init=1), tmp_path, resume=False)
    assert second.steps_run == 4 * STEPS
    assert not same_weights(first.module.state_dict(), second.module.state_dict())
    assert [row["step"] for row in rows_of(tmp_path) if "epoch" in row] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": replace(CONFIG, learning_rate=0.5)}, "loop"),
        ({"seed": 1}, "seed"),
        ({"settings": {"stage": "regression", "dataset": "other"}}, "dataset"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    train(Regression(), tmp_path)
    stage = Regression(settings=change.pop("settings", None))
    with pytest.raises(InputError, match=rf"other settings \({named} differ\)"):
        train(stage, tmp_path, **change)
    assert stage.steps_run == 0


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_something_else_loses_nothing(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch9.pt").write_text("mine")
    (tmp_path / ".mine.tmp").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(\.mine\.tmp, checkpoints\)"):
        train(Regression(), tmp_path, resume=resume)
    (tmp_path / "config.json").write_text('{"architectures": []}')
    with pytest.raises(InputError, match="was not written by a run of reg4rec"):
        train(Regression(), tmp_path, resume=resume)
    assert (tmp_path / "checkpoints" / "epoch9.pt").read_text() == (tmp_path / ".mine.tmp").read_text() == "mine"


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with exclusive_folder(tmp_path), pytest.raises(InputError, match="another process is writing to"):
        train(Regression(), tmp_path)
    train(Regression(), tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "missing"])
@pytest.mark.parametrize("name", ["state.safetensors", "best.safetensors", "checkpoint.json"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path, name: str, damage: str) -> None:
    whole, killed, resumed = Regression(), Regression(killed_at=3 * STEPS + 1), Regression(init=9)
    train(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        train(killed, tmp_path / "killed")
    before, newest = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    content = (newest / name).read_bytes()
    (newest / name).unlink()
    if damage != "missing":
        cut = {"cut": content[:-7], "empty": b"", "bit": content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]}
        (newest / name).write_bytes(cut[damage])
    assert re.search(rf"{newest.name} is damaged; at step {int(before.name[5:])}", run_state(tmp_path / "killed"))
    with pytest.warns(UserWarning, match=rf"{name}.*; training resumes from {before.name}, the one before"):
        train(resumed, tmp_path / "killed")
    assert same_weights(resumed.module.state_dict(), whole.module.state_dict())
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert (tmp_path / "killed" / "best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()


def test_a_run_without_a_readable_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Regression(), tmp_path)
    for state in tmp_path.glob("checkpoints/step-*/state.safetensors"):
        state.write_bytes(state.read_bytes()[:100])
    assert run_state(tmp_path) == "no checkpoint can be read; start over with resume off"
    with pytest.raises(InputError, match=r"state\.safetensors is not .*no other checkpoint can be read, so start over"):
        train(Regression(), tmp_path)
    assert len(list(tmp_path.glob("checkpoints/step-*"))) == 2


def wrong_checkpoints() -> dict[str, tuple[dict[str, Any], dict[str, Tensor | None]]]:
    """Changes of the counters and of the tensors (None: left out) of a checkpoint, each of which must be refused."""
    moments, zero = torch.zeros(6, 4), torch.zeros(())
    return {
        "moments of another shape": ({}, {"optimizer.0.exp_avg": torch.zeros(3)}),
        "moments of another type": ({}, {"optimizer.0.exp_avg": moments.double()}),
        "a missing moment": ({}, {"optimizer.0.exp_avg_sq": None}),
        "a missing step of the optimizer": ({}, {"optimizer.0.step": None}),
        "a variance below 0": ({}, {"optimizer.0.exp_avg_sq": moments - 1}),
        "a parameter that is not there": ({}, {"optimizer.99999.exp_avg": zero}),
        "a parameter without a number": ({}, {"optimizer.x": zero}),
        "weights of another shape": ({}, {"module.0.weight": torch.zeros(1, 4)}),
        "weights of another type": ({}, {"module.0.weight": moments.double()}),
        "missing weights": ({}, {"module.0.bias": None}),
        "more weights": ({}, {"module.more": zero}),
        "no random state": ({}, {"random.cpu": None}),
        "half a random state": ({}, {"random.cpu": torch.zeros(100, dtype=torch.uint8)}),
        "a random state of numbers": ({}, {"random.cpu": torch.zeros(5056)}),
        "a tensor of something else": ({}, {"other": zero}),
        "values of the best epoch of another type": ({}, {"best.values": torch.zeros(3)}),
        "values of the best epoch that are none": ({}, {"best.values": torch.full((3,), math.nan).double()}),
        "more of the best epoch": ({}, {"best.values": torch.zeros(3).double(), "best.more": zero}),
        "worse epochs that never were": ({"worse_epochs": 9}, {}),
        "step as text": ({"step": "x"}, {}),
        "no step": ({"step": None}, {}),
        "a step below 0": ({"step": -1}, {}),
        "another epoch": ({"epoch": 1}, {}),
        "an entry of something else": ({"wings": 2}, {}),
        "a best epoch that never was": ({"best_epoch": 4}, {}),
        "epochs of text": ({"epochs": ["x"]}, {}),
        "seconds that are none": ({"seconds": float("nan")}, {}),
    }


@pytest.mark.parametrize("wrong", wrong_checkpoints())
def test_a_checkpoint_is_refused_before_it_is_loaded(tmp_path: Path, wrong: str) -> None:
    """Even if its checksums fit: with moments of a wrong shape, the fused AdamW would write outside them."""
    train(Regression(), tmp_path)
    counts, tensors = wrong_checkpoints()[wrong]
    for folder in tmp_path.glob("checkpoints/step-*"):
        found = read_tensors(folder / "state.safetensors") | tensors
        write_tensors(folder / "state.safetensors", {name: t for name, t in found.items() if t is not None})
        without = [name for name, value in counts.items() if value is None]
        reseal(folder / "checkpoint.json", {n: v for n, v in counts.items() if v is not None}, without)
    with pytest.raises(InputError, match="no other checkpoint can be read, so start over with resume off"):
        train(Regression(), tmp_path)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    train(Regression(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
    ]
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [folder.name for folder in kept] == [f"step-{4 * STEPS - 1:09d}", f"step-{4 * STEPS:09d}"]
    assert all(os.stat(folder / "best.safetensors").st_nlink > 1 for folder in kept[-1:])  # no second copy


@pytest.mark.parametrize("in_memory", [True, False])
def test_early_stopping_restores_the_best_weights(tmp_path: Path, in_memory: bool) -> None:
    stage = Regression(scores=[0.1, 0.7, 0.7, 0.6, 0.9, 0.9])
    config = replace(CONFIG, epochs=6, patience=2)
    result = train(stage, None if in_memory else tmp_path, config)
    assert result.stopped_early
    assert result.best_epoch == 1
    assert [e["score"] for e in result.epochs] == [0.1, 0.7, 0.7, 0.6]
    assert same_weights(stage.module.state_dict(), stage.weights_of_epochs[1])
    assert not same_weights(stage.weights_of_epochs[1], stage.weights_of_epochs[3])


def test_patience_counts_epochs_that_are_clearly_worse(tmp_path: Path) -> None:
    some, fewer, few = [1.0] * 20 + [0.0] * 80, [1.0] * 18 + [0.0] * 82, [1.0] * 9 + [0.0] * 91
    # 2 of 100 users fewer are 1.4 standard errors, 11 fewer 3.5
    values = [fewer, some, few, few, fewer, few, few, few, some]
    config = replace(CONFIG, epochs=9, patience=3)
    whole = train(Regression(values=values), None, config)
    assert (whole.best_epoch, len(whole.epochs), whole.stopped_early) == (1, 8, True)
    assert whole.best_values_B is not None
    assert whole.best_values_B.tolist() == some
    with pytest.raises(Killed):
        train(Regression(values=values, killed_in_epoch=6), tmp_path, config)
    resumed = train(Regression(values=values), tmp_path, config)
    assert (resumed.best_epoch, len(resumed.epochs)) == (1, 8)
    assert resumed.best_values_B is not None
    assert resumed.best_values_B.tolist() == some


def test_without_patience_all_epochs_run_and_the_best_is_kept() -> None:
    stage = Regression(scores=[0.9, 0.1, 0.2, 0.3])
    result = train(stage, None)
    assert (result.best_epoch, len(result.epochs), result.stopped_early) == (0, 4, False)
    assert same_weights(stage.module.state_dict(), stage.weights_of_epochs[0])


def test_without_a_monitor_the_last_weights_stay() -> None:
    stage = Regression()
    assert train(stage, None).best_epoch == 3
    assert same_weights(stage.module.state_dict(), stage.weights_of_epochs[3])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, bad: float) -> None:
    stage = Regression(after_loss=lambda step, loss: loss * bad if step == 6 else loss)
    with pytest.raises(FloatingPointError, match=r"regression: the loss became (nan|inf) before step 7; lower learn"):
        train(stage, tmp_path)
    (state,) = tmp_path.glob("checkpoints/step-000000006/state.safetensors")
    assert all(bool(t.isfinite().all()) for t in loop.read_tensors(state).values())


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    train(Regression(), tmp_path)
    train(Regression(), tmp_path)
    with pytest.raises(Killed):
        train(Regression(killed_at=3), None)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_and_the_global_state_does_not() -> None:
    weights = []
    for seed, ambient in ((0, 1), (0, 2), (7, 1)):
        torch.manual_seed(ambient)
        train(stage := Regression(), None, seed=seed)
        weights.append(stage.module.state_dict())
    assert same_weights(weights[0], weights[1])
    assert not same_weights(weights[0], weights[2])


def test_weight_decay_shrinks_matrices_only() -> None:
    stage = Regression(after_loss=lambda step, loss: loss * 0)
    before = {name: t.clone() for name, t in stage.module.state_dict().items()}
    train(stage, None, replace(CONFIG, epochs=1))
    for name, after in stage.module.state_dict().items():
        if after.dim() >= 2:
            assert after.norm() < 0.999 * before[name].norm()
            torch.testing.assert_close(after / after.norm(), before[name] / before[name].norm())
        else:
            assert torch.equal(after, before[name])


def test_gradients_are_scaled_down_to_the_limit() -> None:
    """A step that is a million times as steep is a step like the others once it is scaled to the same norm."""
    moved = []
    for steep in (1.0, 1e6):
        stage = Regression(after_loss=lambda step, loss, steep=steep: loss * steep if step == 3 else loss)  # type: ignore[misc]
        train(stage, None, replace(CONFIG, max_grad_norm=1e-3))
        moved.append(stage.module.state_dict())
    for name in moved[0]:
        torch.testing.assert_close(moved[0][name], moved[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 1.0])
def test_the_schedule_warms_up_to_the_peak_and_falls_to_zero(fraction: float) -> None:
    config = LoopConfig(learning_rate=0.2, warmup_fraction=fraction)
    total = 40
    rates = [loop.schedule(step, total, config) for step in range(total)]
    warmup = max(1, round(total * fraction))
    assert rates[0] == pytest.approx(0.2 / warmup)
    assert rates[warmup - 1] == max(rates) == pytest.approx(0.2)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b for a, b in pairwise(rates[warmup - 1 :]))
    if warmup < total:
        assert 0 < rates[-1] < 0.02
        assert loop.schedule(total, total, config) == pytest.approx(0)


def test_the_logged_rates_follow_the_schedule(tmp_path: Path) -> None:
    train(Regression(), tmp_path)
    logged = {row["step"]: row["lr"] for row in rows_of(tmp_path) if "lr" in row}
    assert logged == {step: loop.schedule(step - 1, 4 * STEPS, CONFIG) for step in range(1, 4 * STEPS + 1)}


def test_epoch_means_are_means_of_the_steps(tmp_path: Path) -> None:
    train(Regression(), tmp_path)
    rows = rows_of(tmp_path)
    steps = {row["step"]: row["loss"] for row in rows if "lr" in row}
    means = [row for row in rows if "epoch" in row]
    for number, row in enumerate(means):
        of_epoch = [steps[number * STEPS + i] for i in range(1, STEPS + 1)]
        assert row["loss"] == pytest.approx(sum(of_epoch) / STEPS)
        assert row["double"] == pytest.approx(2 * row["loss"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"warmup_fraction": 1.5},
        {"max_grad_norm": 0.0},
        {"patience": -1},
        {"log_every": 0},
        {"checkpoint_seconds": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=name):
        LoopConfig(**wrong)  # type: ignore[arg-type]


def test_tensorboard_gets_every_epoch_once_though_the_run_was_killed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = replace(CONFIG, tensorboard=True)
    with pytest.raises(Killed):
        train(Regression(killed_at=7, scores=[1.0, 2.0, 3.0, 4.0]), tmp_path, config)
    train(Regression(scores=[1.0, 2.0, 3.0, 4.0]), tmp_path, config)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("epoch/score")] == [1.0, 2.0, 3.0, 4.0]
    steps = [event.step for event in events.Scalars("step/loss")]
    assert steps == sorted(set(steps))
    with pytest.raises(InputError, match="run folder"):
        train(Regression(), None, config)


@pytest.mark.parametrize("line", [b"{", b"7", b'{"epoch": 1}', b"\xff\xfe", b"\0\0\0"])
def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, line: bytes) -> None:
    train(Regression(), tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + line)  # cut by a kill
    assert read_metrics(tmp_path) == [json.loads(row) for row in whole.splitlines()]
    path.write_bytes(line + b"\n" + whole)
    for reads in (read_metrics, lambda run: train(Regression(), run)):
        with pytest.raises(InputError, match=r"metrics\.jsonl line 1 is damaged"):
            reads(tmp_path)


def test_a_run_that_starts_over_holds_nothing_of_the_old_one(tmp_path: Path) -> None:
    train(Regression(settings={"stage": "pretrain", "size": "old"}), tmp_path)
    result = tmp_path / "recommender"
    result.mkdir()
    (tmp_path / "tensorboard").mkdir()
    of_run = ("calibration.json", "failure.json", "tensorboard/events")
    for path in (result / "recommender.json", result / "notes.txt", *(tmp_path / name for name in of_run)):
        path.write_text("old")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def start_over() -> None:
        train(Regression(settings={"stage": "pretrain", "size": "new"}, killed_at=0), tmp_path, resume=False)

    with pytest.raises(InputError, match=r"recommender holds other files \(notes\.txt\), which would be lost"):
        start_over()
    with pytest.raises(InputError, match="holds a run of pretrain, not of regression; choose another folder"):
        train(Regression(), tmp_path, resume=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (result / "notes.txt").unlink()
    with pytest.raises(Killed):
        start_over()
    assert json.loads((tmp_path / "config.json").read_text())["size"] == "new"
    assert [path.name for path in tmp_path.iterdir() if path.name != "checkpoints"] == ["config.json"]


def test_what_a_result_links_to_stays_when_a_run_starts_over(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    train(Regression(settings={"stage": "pretrain"}), run)
    elsewhere.mkdir()
    (elsewhere / "recommender.json").write_text("{}")
    (run / "recommender").symlink_to(elsewhere)
    train(Regression(settings={"stage": "pretrain"}), run, resume=False)
    assert (elsewhere / "recommender.json").exists()
    assert not (run / "recommender").exists()
