"""How often LADQ must sample to follow what a layer's number format costs."""

import statistics
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.experiments.finding import Columns, Finding, Picture, Table, check_study_folder, versions
from reg4rec.experiments.job import plain
from reg4rec.model import Format
from reg4rec.precision.ladq import COARSER, LadqConfig, LayerSample, classes_of, read_ladq
from reg4rec.run import SharedRun
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "SamplingConfig", "replayed_classes", "replayed_rows", "sampling", "true_classes"]

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


COLUMNS: Columns = {
    "sampled every": "{row.period}",
    "first choice at": "{row.first_step}",
    "wrong class": "{row.wrong:.1%}",
    "too coarse": "{row.too_coarse:.1%}",
    "changes": "{row.changes:.2f}",
    "caught": "{row.caught:.0%}",
    "lag, steps": lambda row: "" if row.lag is None else f"{row.lag:.0f}",
}


def sampling(
    data: Dataset,
    tokenizer: Tokenizer,
    config: SamplingConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> Finding[Row]:
    """Train once, sampling often, and replay controllers that sample rarely; writes `sampling.md`, `.json`, `.png`.

    The run is saved in `out/fits`: a killed run continues, a finished one is not trained again.
    Paper: LADQ, stated (sampling must be frequent enough to catch phase changes).
    """
    config, out = override(config or SamplingConfig(), overrides), Path(out)
    check_study_folder(out)
    everything_fp32 = LadqConfig(sample_every=config.every, decay=0.0, fp32_share=1.0, fp8_share=0.0, slowdown=1e9)
    settings = replace(config.pretrain, precision="ladq", ladq=everything_fp32)
    tokens = {
        "tokens": tokenizer.catalog_fingerprint(data.items),
        "dataset": data.card["fingerprint"],
        "seed": config.seed,
    }
    shared = SharedRun(out / "fits", config.seed, device, decided_by={**tokens, "sampled": plain(settings)})
    run = shared.stage("sampled")
    pretrain(data, tokenizer, settings, run)
    history = read_ladq(Path(run.out or "")).history
    if len(history) < 2 * SMOOTH:
        raise InputError(
            f"the run has {len(history)} samples, a study needs {2 * SMOOTH}; train longer or sample more often"
        )
    rows, steps = replayed_rows(history, config), [step for step, _ in history]
    traces = {name: [layers[name].trace for _, layers in history] for name in history[0][1]}
    return Finding(
        "sampling",
        ("reg4rec-sampling", 3),
        data.name,
        "LADQ's sampling period",
        rows,
        [Table(rows, COLUMNS)],
        f"{len(traces)} layers, {steps[-1] + 1} steps, one run in fp32 sampled every {config.every} steps, seed "
        f"{config.seed}; the truth: ranks by the mean trace of {SMOOTH} samples to either side. changes: of class, a "
        "layer and 1,000 steps.",
        asdict(config),
        versions(torch.device(device if device != "auto" else "cpu").type),
        {"steps": steps, "traces": traces},
        picture=Picture(10, 3.6, partial(_draw, rows=rows, steps=steps, traces=traces)),
    ).save(out)


History = list[tuple[int, dict[str, LayerSample]]]


def _cost(sample: LayerSample, trace: float) -> float:
    """What fp8 would cost the layer at this sample's weights, by another trace."""
    return sample.fp8 / sample.trace * trace if sample.trace > 0 else 0.0


def true_classes(history: History, ladq: LadqConfig) -> list[Classes]:
    """The classes by traces averaged over samples before and after each step."""
    classes: list[Classes] = []
    for i, (_, rows) in enumerate(history):
        near = history[max(0, i - SMOOTH) : i + SMOOTH + 1]
        cost = {n: _cost(s, statistics.fmean(other[n].trace for _, other in near)) for n, s in rows.items()}
        classes.append(classes_of(cost, classes[-1] if classes else {}, ladq))
    return classes


def replayed_classes(period: int, history: History, ladq: LadqConfig) -> list[Classes]:
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


def replayed_rows(history: History, config: SamplingConfig) -> list[Row]:
    """A row for each period; InputError where the run ends before a controller's first sample."""
    truth = true_classes(history, config.ladq)
    return [_row(period, history, truth, config) for period in config.periods]


def _row(period: int, history: History, truth: list[Classes], config: SamplingConfig) -> Row:
    found = replayed_classes(period, history, config.ladq)
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


def _draw(figure: "Figure", rows: list[Row], steps: list[int], traces: dict[str, list[float]]) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for layer, values in traces.items():
        color = "C0" if layer.startswith("encoder.") else "C1"
        left.plot(steps, values, color=color, linewidth=0.6, alpha=0.7)
    left.set(yscale="log", xlabel="step", title="trace of each layer (blue: encoder, orange: decoder)")
    periods = [row.period for row in rows]
    right.plot(periods, [100 * row.wrong for row in rows], "o-", label="wrong class")
    right.plot(periods, [100 * row.too_coarse for row in rows], "o-", label="too coarse")
    right.set(xscale="log", xlabel="steps between two samples", title="% of layers and steps")
    right.set_ylim(0)
    right.legend(frameon=False, fontsize=9)
