"""LADQ: every linear layer trains in the cheapest number format that its sensitivity allows (Paper: stated, D12).

A few steps of a run are sampled: the squared norms of a layer's inputs and of its output gradients give the trace of
its Fisher block as K-FAC factors it, tr(A) tr(G), without any matrix. The trace and the error that a format makes in
the layer's weights say what the format would cost.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reg4rec import ops
from reg4rec.checkpoints import newest_progress
from reg4rec.errors import InputError
from reg4rec.model import Format, Linear
from reg4rec.precision.format_costs import FormatCosts, LayerSize, format_costs
from reg4rec.precision.fp8_counts import Fp8Counts, Fp8Sample, fp8_metrics, read_counts
from reg4rec.settings import check_settings

__all__ = ["Ladq", "LadqConfig", "LayerReport", "Precision", "fp8_report", "precision_report", "set_formats"]

Precision = Literal["fp32", "bf16", "fp8", "ladq"]
COARSER: tuple[Format, ...] = ("fp32", "bf16", "fp8")
"""A layer's class is the coarsest format that it may take; it may take the finer ones too."""
LOOK_EVERY = 20
"""Steps between two looks at the loss, each of which waits for the device."""


@dataclass(frozen=True)
class LadqConfig:
    """When layers are sampled, and how their sensitivity becomes a format."""

    sample_every: int = 50
    """steps from one sample of the traces to the next (docs/precision.md has what rarer samples miss); of fp8's counts
    with precision fp8 too"""
    decay: float = 0.9
    """weight of the past in a layer's trace, a moving average over the samples"""
    fp32_share: float = 0.1
    """part of the layers, the most sensitive, that are to stay in fp32"""
    slowdown: float = 0.02
    """they stay, the most sensitive first, while the layers take no longer than this part more than the faster of fp32
    and bf16 for all; 100 keeps them all on any machine"""
    fp8_share: float = 0.5
    """part of the layers, the least sensitive, that may take fp8; the others may take bf16"""
    hysteresis: float = 0.05
    """a layer keeps its class until its place in the ranking is this part of all layers beyond the border"""
    spike: float = 1.5
    """a loss of so many times its moving average, or an average of so many times the lowest one since the last spike,
    sends all layers back to fp32 and samples again"""
    fresh_samples: int = 3
    """consecutive steps sampled after a spike before formats are given again"""
    stability: float = 1.0
    """and only if the traces' deviation among them is below so many times their mean (median over the layers)"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("sample_every", self.sample_every >= 1, "1 or more"),
            ("decay", 0 <= self.decay < 1, "from 0 to below 1"),
            ("fp32_share", 0 <= self.fp32_share <= 1, "between 0 and 1"),
            ("slowdown", self.slowdown >= 0, "0 or more"),
            ("fp8_share", 0 <= self.fp8_share <= 1 - self.fp32_share, "at least 0, with fp32_share at most 1"),
            ("hysteresis", 0 <= self.hysteresis < 1, "from 0 to below 1"),
            ("spike", self.spike > 1, "above 1"),
            ("fresh_samples", self.fresh_samples >= 2, "2 or more"),
            ("stability", self.stability > 0, "above 0"),
        )


@dataclass(frozen=True)
class LayerReport:
    """A layer at the last sample: what formats would cost in quality and in time, and which it has."""

    layer: str
    trace: float
    """of the layer's Fisher block, moving average"""
    sensitivity: dict[Format, float]
    """expected growth of the loss from rounding the weights, up to a factor that all layers share"""
    seconds: dict[Format, float]
    """a forward and a backward pass at the layer's size"""
    format: Format
    changes: list[tuple[int, Format]]
    """(step, format): what the layer was given, and each change after it"""
    fp8_counts: Fp8Counts | None
    """None where it was not in fp8 when it was sampled"""


class LayerSample(NamedTuple):
    """A layer at one sample."""

    trace: float
    bf16: float
    fp8: float
    format: Format
    fp8_counts: Fp8Counts | None = None


@dataclass
class LadqState:
    """All that a run killed and resumed must know; JSON in every checkpoint."""

    traces: dict[str, float] = field(default_factory=dict)
    classes: dict[str, Format] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """most rows that a layer has had at a sample: batches differ in length, and the largest take most of the time"""
    sizes: dict[str, str] = field(default_factory=dict)
    costs: FormatCosts = field(default_factory=dict)
    history: list[tuple[int, dict[str, LayerSample]]] = field(default_factory=list)
    """(step, layer -> sample), a sample each"""
    spikes: list[int] = field(default_factory=list)
    """steps at which a spike of the loss was seen"""
    fresh: list[dict[str, float]] | None = None
    """traces sampled since the last spike; None while none is under way"""
    loss: float | None = None
    """moving average"""
    lowest: float | None = None
    """moving average where it was lowest since the last spike"""
    spiked: bool = False


class Ladq:
    """The controller that `reg4rec.loop` asks before and after the backward pass of every step.

    Given the table of costs it is deterministic. Layers begin in fp32, until the first sample.
    """

    def __init__(self, module: nn.Module, config: LadqConfig):
        self.config, self.layers = config, linear_layers(module)
        if not self.layers:
            raise ValueError("the module has no reg4rec.model.Linear to choose a format for")
        self.run = LadqState()
        self.norms: dict[str, _Norms] = {}
        self.hooks: list[RemovableHandle] = []
        self.fp8 = Fp8Sample({})
        self.loss, self.lowest, self.spiked = torch.tensor(torch.nan), torch.tensor(torch.inf), torch.tensor(False)

    def before_forward(self, step: int) -> None:
        if self.run.fresh is not None or (step + 1) % self.config.sample_every == 0:
            self.norms = {name: _Norms() for name in self.layers}
            self.hooks = [
                layer.register_forward_hook(self.norms[name].of_inputs) for name, layer in self.layers.items()
            ]
            self.fp8 = Fp8Sample(self.layers)

    def after_backward(self, step: int, loss: Tensor) -> None:
        if self.hooks:
            for hook in self.hooks:
                hook.remove()
            self.hooks = []
            traces = dict(zip(self.norms, _traces(self.norms.values()), strict=True))
            self._take(step, traces, self.fp8.finish())
        self._watch(step, loss.detach())

    def report(self) -> dict[str, float]:
        """How many layers have each format, how often the loss has spiked, and what fp8 made zero."""
        formats = [layer.format for layer in self.layers.values()]
        counts = {f"layers_{name}": float(formats.count(name)) for name in COARSER}
        return {
            **counts,
            "loss_spikes": float(len(self.run.spikes)),
            **fp8_metrics(_fp8_counts(rows) for _, rows in self.run.history),
        }

    def precision_report(self) -> list[LayerReport]:
        """A row a layer, in the order of the module; empty before the first sample."""
        return _reports(self.run)

    def state(self) -> dict[str, Any]:
        self.run.loss, self.run.spiked = (None if self.loss.isnan() else float(self.loss)), bool(self.spiked)
        self.run.lowest = float(self.lowest) if self.lowest.isfinite() else None
        return dict(vars(self.run))

    def restore(self, state: dict[str, Any]) -> None:
        self.run = _read_state(state)
        self.loss = torch.tensor(torch.nan if self.run.loss is None else self.run.loss)
        self.lowest = torch.tensor(torch.inf if self.run.lowest is None else self.run.lowest)
        self.spiked = torch.tensor(self.run.spiked)
        last = self.run.history[-1][1] if self.run.history and self.run.fresh is None else {}
        for name, layer in self.layers.items():
            layer.format = last[name].format if name in last else "fp32"

    def _take(self, step: int, traces: dict[str, float], fp8_counts: dict[str, Fp8Counts]) -> None:
        run, decay = self.run, self.config.decay
        if run.fresh is None:
            for name, trace in traces.items():
                run.traces[name] = decay * run.traces.get(name, trace) + (1 - decay) * trace
            self._assign(step, fp8_counts)
            return
        run.fresh.append(traces)
        if len(run.fresh) == self.config.fresh_samples:
            samples = {name: [traces[name] for traces in run.fresh] for name in self.layers}
            means = {name: statistics.fmean(values) for name, values in samples.items()}
            spread = statistics.median(statistics.stdev(v) / max(means[n], 1e-30) for n, v in samples.items())
            stable = spread < self.config.stability
            run.fresh = None if stable else []
            if stable:
                run.traces = means
                self._assign(step, fp8_counts)

    def _assign(self, step: int, fp8_counts: dict[str, Fp8Counts]) -> None:
        """Rank the layers by what fp8 would cost them, give each its class, and by class and time its format."""
        run = self.run
        run.rows = {name: max(self.norms[name].rows, run.rows.get(name, 0)) for name in self.layers}
        sizes = {name: LayerSize.of(layer, run.rows[name]) for name, layer in self.layers.items()}
        named = {name: str(size) for name, size in sizes.items()}
        if named != run.sizes:
            run.sizes = named
            run.costs = format_costs(sizes.values(), next(iter(self.layers.values())).weight.device)
        cost = {name: sensitivity(layer.weight, run.traces[name]) for name, layer in self.layers.items()}
        fp8_cost = {name: of["fp8"] for name, of in cost.items()}
        run.classes = classes_of(fp8_cost, run.classes, self.config)
        seconds = {name: run.costs[run.sizes[name]] for name in self.layers}
        for name, chosen in formats_of(run.classes, fp8_cost, seconds, self.config.slowdown).items():
            self.layers[name].format = chosen
        samples = {
            n: LayerSample(run.traces[n], **cost[n], format=layer.format, fp8_counts=fp8_counts.get(n))
            for n, layer in self.layers.items()
        }
        run.history.append((step, samples))

    def _watch(self, step: int, loss: Tensor) -> None:
        """Notice a spike, and a slow rise; the flag stays on the device until the next look."""
        self.loss, self.spiked = self.loss.to(loss.device), self.spiked.to(loss.device)
        self.spiked |= loss > self.config.spike * self.loss  # never true of the first loss
        self.loss = torch.where(self.loss.isnan(), loss, self.config.decay * self.loss + (1 - self.config.decay) * loss)
        self.lowest = torch.minimum(self.lowest.to(loss.device), self.loss)
        self.spiked |= self.loss > self.config.spike * self.lowest
        if (step + 1) % LOOK_EVERY == 0:
            if self.spiked and self.run.fresh is None:
                self.run.spikes.append(step)
                self.run.fresh, self.lowest = [], self.loss
                set_formats(self.layers, "fp32")
            self.spiked.zero_()


class _Norms:
    """Squared norms of a layer's inputs and of its output gradients, summed over a step's rows."""

    def __init__(self) -> None:
        self.rows, self.samples = 0, 0
        self.inputs, self.grads = torch.zeros(()), torch.zeros(())

    def of_inputs(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if not output.requires_grad:
            return
        self.rows, self.samples = self.rows + args[0][..., 0].numel(), len(args[0])
        self.inputs = self.inputs.to(output.device) + args[0].detach().float().square().sum()
        output.register_hook(self.of_grads)

    def of_grads(self, grad: Tensor) -> None:
        self.grads = self.grads.to(grad.device) + grad.float().square().sum()


def _traces(norms: Any) -> list[float]:
    """tr(A) tr(G) of each layer. The loss is a mean over samples, so a sample's own gradient is N times as large."""
    return torch.stack([n.inputs / max(n.rows, 1) * n.samples * n.grads for n in norms]).tolist()


def linear_layers(module: nn.Module) -> dict[str, Linear]:
    """The layers whose format may change, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Linear)}


def set_formats(layers: dict[str, Linear], wanted: Format) -> None:
    """One format for all layers; bf16 where a layer's widths rule out fp8."""
    for layer in layers.values():
        layer.format = wanted if wanted in layer.formats else "bf16"


def sensitivity(weight: Tensor, trace: float) -> dict[Format, float]:
    """By format: the mean curvature of a weight times the mean squared error of rounding it."""
    exact = weight.detach().float()
    fp8 = ops.fp8_quantize(exact, torch.float8_e4m3fn, rowwise=False)
    errors = {"bf16": exact.bfloat16().float() - exact, "fp8": fp8.values.float() * fp8.scale - exact}
    return {name: trace / exact.numel() * float(error.square().mean()) for name, error in errors.items()}  # type: ignore[misc]


def classes_of(cost: dict[str, float], before: dict[str, Format], config: LadqConfig) -> dict[str, Format]:
    """Each layer's class by its place among the costs, largest first; `before` holds until a border is well passed."""
    ranked = sorted(cost, key=lambda name: (-cost[name], name))
    borders = {"fp32": (0.0, config.fp32_share), "bf16": (config.fp32_share, 1 - config.fp8_share)}
    borders["fp8"] = (1 - config.fp8_share, 1.0)
    classes: dict[str, Format] = {}
    for i, name in enumerate(ranked):
        place = (i + 0.5) / len(ranked)
        kept = before.get(name)
        if kept is not None:
            low, high = borders[kept]
            if low - config.hysteresis <= place <= high + config.hysteresis:
                classes[name] = kept
                continue
        classes[name] = next(c for c in COARSER if place < borders[c][1] or c == "fp8")
    return classes


def formats_of(
    classes: dict[str, Format], cost: dict[str, float], seconds: dict[str, dict[Format, float]], slowdown: float
) -> dict[str, Format]:
    """Each layer's fastest format of those that its class allows.

    Layers of class fp32 have it, those of largest cost first, as long as all layers together take at most `slowdown`
    longer than with the faster of fp32 and bf16 for all; those left over take what the class bf16 may.
    """

    def fastest(name: str) -> Format:
        allowed = COARSER[: max(2, COARSER.index(classes[name]) + 1)]
        return min((f for f in allowed if f in seconds[name]), key=lambda f: seconds[name][f])

    formats = {name: fastest(name) for name in classes}
    single = min(sum(of[whole] for of in seconds.values()) for whole in COARSER[:2])
    left = (1 + slowdown) * single - sum(seconds[name][chosen] for name, chosen in formats.items())
    exact = [name for name, kept in classes.items() if kept == "fp32"]
    for name in sorted(exact, key=lambda name: (-cost[name], name)):
        extra = seconds[name]["fp32"] - seconds[name][formats[name]]
        if extra <= left:
            formats[name], left = "fp32", left - extra
    return formats


def precision_report(run: str | Path) -> list[LayerReport]:
    """What LADQ chose in a run folder, by its last checkpoint. InputError where no LADQ has been at work."""
    return _reports(read_ladq(run))


def read_ladq(run: str | Path) -> LadqState:
    """What LADQ knew at a run's last checkpoint. InputError where no LADQ has been at work."""
    controller = _controller_state(run)
    if "traces" not in controller:
        raise InputError(f"{run} holds no run that was trained with precision ladq (no checkpoint tells of one)")
    return _read_state(controller)


def fp8_report(run: str | Path) -> dict[str, Fp8Counts]:
    """What fp8 did to each layer that was in it at the last sample of a run folder, by its last checkpoint.

    InputError where neither precision fp8 nor ladq has been at work.
    """
    state = _controller_state(run)
    if not state:
        raise InputError(f"{run} holds no run that was trained with precision fp8 or ladq (no checkpoint tells of one)")
    if "traces" in state:
        samples = [_fp8_counts(rows) for _, rows in _read_state(state).history]
    else:
        samples = [rows for _, rows in read_counts(state)]
    return samples[-1] if samples else {}


def _controller_state(run: str | Path) -> dict[str, Any]:
    progress = newest_progress(Path(run))
    return {} if progress is None else progress.controller


def _read_state(state: dict[str, Any]) -> LadqState:
    history = [
        (step, {name: _read_sample(*values) for name, values in rows.items()}) for step, rows in state["history"]
    ]
    return LadqState(**{**state, "history": history})


def _read_sample(trace: float, bf16: float, fp8: float, given: Format, counts: Any) -> LayerSample:
    return LayerSample(trace, bf16, fp8, given, counts and Fp8Counts(*counts))


def _fp8_counts(samples: dict[str, LayerSample]) -> dict[str, Fp8Counts]:
    """Of the layers that were in fp8."""
    return {name: sample.fp8_counts for name, sample in samples.items() if sample.fp8_counts is not None}


def _reports(run: LadqState) -> list[LayerReport]:
    reports = []
    for name, last in run.history[-1][1].items() if run.history else ():
        given = [(step, rows[name].format) for step, rows in run.history]
        changes = [now for before, now in zip([(0, None), *given], given, strict=False) if now[1] != before[1]]
        costs: dict[Format, float] = {"bf16": last.bf16, "fp8": last.fp8}
        seconds = run.costs[run.sizes[name]]
        reports.append(LayerReport(name, last.trace, costs, seconds, last.format, changes, last.fp8_counts))
    return reports
