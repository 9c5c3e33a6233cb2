"""How often LADQ must sample to follow what a layer's number format costs."""

import statistics
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.experiments.compare import versions
from reg4rec.experiments.finding import Finding, check_study_folder, markdown_table
from reg4rec.model import Format
from reg4rec.precision.ladq import COARSER, LadqConfig, LayerSample, classes_of, read_ladq
from reg4rec.run import Run
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SamplingConfig", "SamplingFindings", "sampling"]

SMOOTH = 10
"""Samples to either side of a step whose mean is taken for the truth."""

Classes = dict[str, Format]


@dataclass(frozen=True)
class SamplingConfig:
    """One run in fp32 that samples often, and the controllers that would have sampled rarely."""

    every: int = 10
    """steps between two samples of the run"""
    periods: tuple[int, ...] = (10, 50, 100, 200, 500, 1000)
    """steps between two samples of the controllers that are replayed, multiples of `every`"""
    ladq: LadqConfig = field(default_factory=LadqConfig)
    """how they choose; their `sample_every` is taken from `periods`"""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        fitting = bool(self.periods) and all(p >= self.every and p % self.every == 0 for p in self.periods)
        check_settings(
            self,
            ("every", self.every >= 1, "1 or more"),
            ("periods", fitting, f"multiples of every, {self.every}"),
            ("seed", self.seed in SEEDS, SEED_RANGE),
        )


@dataclass(frozen=True)
class Row:
    """A controller against the truth, over all layers and sampled steps after its first choice."""

    period: int
    first_step: int
    wrong: float
    """share of layers and steps with another class than the truth's"""
    too_coarse: float
    """share with a coarser one"""
    changes: float
    """of class, a layer and a thousand steps"""
    caught: float
    """share of the truth's lasting changes that it followed before the next"""
    lag: float | None
    """median steps that it took; None where it followed none"""


@dataclass(frozen=True)
class SamplingFindings(Finding):
    """A row for each period, the traces by layer, and what they were measured under."""

    dataset: str
    rows: list[Row]
    steps: list[int]
    traces: dict[str, list[float]]
    settings: dict[str, Any]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    FORMAT = "reg4rec-sampling", 2

    @property
    def name(self) -> str:
        return "sampling"

    def markdown(self) -> str:
        """A table, and what it was measured under."""
        head = ["sampled every", "first choice at", "wrong class", "too coarse", "changes", "caught", "lag, steps"]
        lines = [
            head,
            *(
                [
                    str(row.period),
                    str(row.first_step),
                    f"{row.wrong:.1%}",
                    f"{row.too_coarse:.1%}",
                    f"{row.changes:.2f}",
                    f"{row.caught:.0%}",
                    "" if row.lag is None else f"{row.lag:.0f}",
                ]
                for row in self.rows
            ),
        ]
        note = (
            f"{len(self.traces)} layers, {self.steps[-1] + 1} steps, one run in fp32 sampled every "
            f"{self.settings['every']} steps, seed {self.settings['seed']}; the truth: ranks by the mean trace of "
            f"{SMOOTH} samples to either side. changes: of class, a layer and 1,000 steps."
        )
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [f"# {self.dataset}: LADQ's sampling period\n", f"{markdown_table(lines)}\n", note, machine]
        return "\n".join([*parts, *self.notes]) + "\n"

    def picture_size(self) -> tuple[float, float]:
        return 10, 3.6

    def draw(self, figure: "Figure") -> None:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for layer, values in self.traces.items():
            part = layer.partition(".")[0]
            left.plot(self.steps, values, color={"encoder": "C0"}.get(part, "C1"), linewidth=0.6, alpha=0.7)
        left.set_yscale("log")
        left.set_xlabel("step")
        left.set_title("trace of each layer (blue: encoder, orange: decoder)", fontsize=10)
        periods = [row.period for row in self.rows]
        right.plot(periods, [100 * row.wrong for row in self.rows], "o-", label="wrong class")
        right.plot(periods, [100 * row.too_coarse for row in self.rows], "o-", label="too coarse")
        right.set_xscale("log")
        right.set_ylim(0)
        right.set_xlabel("steps between two samples")
        right.set_title("% of layers and steps", fontsize=10)
        right.legend(frameon=False, fontsize=9)
        for panel in (left, right):
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{self.dataset}: LADQ's sampling period", fontsize=11)


def sampling(
    data: Dataset,
    tokenizer: Tokenizer,
    config: SamplingConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> SamplingFindings:
    """Train once, sampling often, and replay controllers that sample rarely; writes `sampling.md`, `.json`, `.png`.

    The run is saved in `out/run`: a killed run continues, a finished one is not trained again.
    Paper: LADQ, stated (sampling must be frequent enough to catch phase changes).
    """
    config, out = override(config or SamplingConfig(), overrides), Path(out)
    check_study_folder(out)
    everything_fp32 = LadqConfig(sample_every=config.every, decay=0.0, fp32_share=1.0, fp8_share=0.0, slowdown=1e9)
    settings = replace(config.pretrain, precision="ladq", ladq=everything_fp32)
    pretrain(data, tokenizer, settings, Run(out / "run", config.seed, device))
    history = read_ladq(out / "run").history
    if len(history) < 2 * SMOOTH:
        raise InputError(
            f"the run has {len(history)} samples, a study needs {2 * SMOOTH}; train longer or sample more often"
        )
    truth = _truth(history, config.ladq)
    findings = SamplingFindings(
        data.name,
        [_row(period, history, truth, config) for period in config.periods],
        [step for step, _ in history],
        {name: [rows[name].trace for _, rows in history] for name in history[0][1]},
        asdict(config),
        versions(torch.device(device if device != "auto" else "cpu").type),
    )
    findings.save(out)
    return findings


History = list[tuple[int, dict[str, LayerSample]]]


def _cost(sample: LayerSample, trace: float) -> float:
    """What fp8 would cost the layer at this sample's weights, by another trace."""
    return sample.fp8 / sample.trace * trace if sample.trace > 0 else 0.0


def _truth(history: History, ladq: LadqConfig) -> list[Classes]:
    """The classes by traces averaged over samples before and after each step."""
    classes: list[Classes] = []
    for i, (_, rows) in enumerate(history):
        near = history[max(0, i - SMOOTH) : i + SMOOTH + 1]
        cost = {n: _cost(s, statistics.fmean(other[n].trace for _, other in near)) for n, s in rows.items()}
        classes.append(classes_of(cost, classes[-1] if classes else {}, ladq))
    return classes


def _replayed(period: int, history: History, ladq: LadqConfig) -> list[Classes]:
    """The classes that a controller has at each sampled step; empty before its first sample."""
    traces: dict[str, float] = {}
    now: Classes = {}
    classes = []
    for step, rows in history:
        if (step + 1) % period == 0:
            for name, sample in rows.items():
                traces[name] = ladq.decay * traces.get(name, sample.trace) + (1 - ladq.decay) * sample.trace
            now = classes_of({name: _cost(rows[name], trace) for name, trace in traces.items()}, now, ladq)
        classes.append(now)
    return classes


def _row(period: int, history: History, truth: list[Classes], config: SamplingConfig) -> Row:
    found = _replayed(period, history, config.ladq)
    first = next((i for i, classes in enumerate(found) if classes), None)
    if first is None:
        raise InputError(f"the run ends before step {period}; leave {period} out of periods, or train longer")
    pairs = [(ours[n], true[n]) for ours, true in zip(found[first:], truth[first:], strict=True) for n in true]
    changes = sum(a[n] != b[n] for a, b in pairwise(found[first:]) for n in a)
    lags = [lag for name in truth[0] for lag in _lags(name, found, truth, first)]
    followed = [lag * config.every for lag in lags if lag is not None]
    kilosteps = (len(history) - first) * config.every / 1000
    return Row(
        period,
        history[first][0],
        statistics.fmean(ours != true for ours, true in pairs),
        statistics.fmean(COARSER.index(ours) > COARSER.index(true) for ours, true in pairs),
        changes / len(truth[0]) / kilosteps,
        len(followed) / len(lags) if lags else 1.0,
        statistics.median(followed) if followed else None,
    )


def _lags(name: str, found: list[Classes], truth: list[Classes], first: int) -> list[int | None]:
    """For each change of the truth that lasts SMOOTH samples: samples until it is followed, None where it never is."""
    lags: list[int | None] = []
    edges = [i for i in range(first + 1, len(truth)) if truth[i][name] != truth[i - 1][name]]
    for edge, end in pairwise([*edges, len(truth)]):
        if end - edge >= SMOOTH:
            lags.append(next((i - edge for i in range(edge, end) if found[i][name] == truth[edge][name]), None))
    return lags
