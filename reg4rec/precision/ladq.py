"""LADQ: every linear layer trains in the cheapest number format that its sensitivity allows (Paper: stated, D12).

LADQ samples a few steps of a run: the squared norms of a layer's inputs and output gradients give the trace of its
Fisher block in K-FAC's factorization, tr(A) tr(G), without any matrix. This trace and the rounding error of the
layer's weights in a format estimate how much the format would raise the loss.
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
"""A layer's class is the coarsest format that it may have; finer formats are allowed too."""
LOOK_EVERY = 20
"""Steps between two checks for spikes of the loss; each check waits for the device."""


@dataclass(frozen=True)
class LadqConfig:
    """Settings of LADQ: when it samples layers, and which format it chooses for a sensitivity."""

    sample_every: int = 50
    """number of steps between two samples of the traces (docs/precision.md shows what rarer samples miss); with
    precision fp8, between two counts of zeroed values"""
    decay: float = 0.9
    """weight of the past in the moving average of a layer's trace"""
    fp32_share: float = 0.1
    """fraction of the layers, the most sensitive ones, that stay in fp32 if the time budget (slowdown) allows it"""
    slowdown: float = 0.02
    """time budget for fp32 layers: all layers together may take at most this fraction longer than with one format, fp32
    or bf16, whichever is faster; 100 keeps all of fp32_share on any machine"""
    fp8_share: float = 0.5
    """fraction of the layers, the least sensitive ones, that may use fp8; layers of neither share may use bf16"""
    hysteresis: float = 0.05
    """a layer keeps its class until its rank is beyond the class by more than this fraction of all layers"""
    spike: float = 1.5
    """the loss spikes if it exceeds its moving average, or the average exceeds its lowest value since the last spike,
    by this factor; all layers then return to fp32 and are sampled again"""
    fresh_samples: int = 3
    """number of consecutive steps sampled after a spike before formats are assigned again"""
    stability: float = 1.0
    """after a spike, formats are assigned again once the relative deviation of the fresh traces (median over the
    layers) is below this"""

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
    """A layer at the last sample: the cost of each format in quality and in time, and the layer's format."""

    layer: str
    trace: float
    """trace of the layer's Fisher block, moving average"""
    sensitivity: dict[Format, float]
    """expected increase of the loss from rounding the weights, up to a factor that all layers share"""
    seconds: dict[Format, float]
    """time of a forward and a backward pass at the layer's size"""
    format: Format
    changes: list[tuple[int, Format]]
    """(step, format): the first assigned format, and each change"""
    fp8_counts: Fp8Counts | None
    """None if the layer was not in fp8 when it was sampled"""


class LayerSample(NamedTuple):
    """A layer at one sample: its trace, the cost of bf16 and fp8, and its format."""

    trace: float
    bf16: float
    fp8: float
    format: Format
    fp8_counts: Fp8Counts | None = None


@dataclass
class LadqState:
    """The state of LADQ that a resumed run needs; saved as JSON in every checkpoint."""

    traces: dict[str, float] = field(default_factory=dict)
    classes: dict[str, Format] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """most rows of a layer at any sample: batches differ in length, and the largest take most of the time"""
    sizes: dict[str, str] = field(default_factory=dict)
    costs: FormatCosts = field(default_factory=dict)
    history: list[tuple[int, dict[str, LayerSample]]] = field(default_factory=list)
    """(step, layer -> sample) of every sample"""
    spikes: list[int] = field(default_factory=list)
    """steps at which a spike of the loss was noticed"""
    fresh: list[dict[str, float]] | None = None
    """traces sampled since the last spike, until formats are assigned again; None otherwise"""
    loss: float | None = None
    """moving average of the loss"""
    lowest: float | None = None
    """lowest moving average of the loss since the last spike"""
    spiked: bool = False


class Ladq:
    """The controller that `reg4rec.loop` calls before the forward and after the backward pass of every step.

    It is deterministic for a given table of costs. All layers are in fp32 until the first sample.
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
        """Metrics: the number of layers in each format, the number of spikes, and the values that fp8 made zero."""
        formats = [layer.format for layer in self.layers.values()]
        counts = {f"layers_{name}": float(formats.count(name)) for name in COARSER}
        return {
            **counts,
            "loss_spikes": float(len(self.run.spikes)),
            **fp8_metrics(_fp8_counts(rows) for _, rows in self.run.history),
        }

    def precision_report(self) -> list[LayerReport]:
        """A report for each layer, in the order of the module; empty before the first sample."""
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
        """Rank the layers by their cost of fp8, which gives their classes; class and time give their formats."""
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
        """Notice a spike or a slow rise of the loss; the flag stays on the device until the next check."""
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
    """tr(A) tr(G) of each layer. The loss is a mean over N samples, so the gradient of one sample is N times larger."""
    return torch.stack([n.inputs / max(n.rows, 1) * n.samples * n.grads for n in norms]).tolist()


def linear_layers(module: nn.Module) -> dict[str, Linear]:
    """The layers whose number format can change, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Linear)}


def set_formats(layers: dict[str, Linear], wanted: Format) -> None:
    """Set one format for all layers; a layer whose widths rule out fp8 gets bf16 instead."""
    for layer in layers.values():
        layer.format = wanted if wanted in layer.formats else "bf16"


def sensitivity(weight: Tensor, trace: float) -> dict[Format, float]:
    """For each format: the mean curvature of a weight times the mean squared error of rounding the weights."""
    exact = weight.detach().float()
    fp8 = ops.fp8_quantize(exact, torch.float8_e4m3fn, rowwise=False)
    errors = {"bf16": exact.bfloat16().float() - exact, "fp8": fp8.values.float() * fp8.scale - exact}
    return {name: trace / exact.numel() * float(error.square().mean()) for name, error in errors.items()}  # type: ignore[misc]


def classes_of(cost: dict[str, float], before: dict[str, Format], config: LadqConfig) -> dict[str, Format]:
    """Each layer's class, by its rank among the costs, largest first; hysteresis keeps a class of `before` longer."""
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
    """Each layer's fastest format that its class allows.

    Layers of class fp32 get fp32, in order of falling cost, as long as all layers together take at most the fraction
    `slowdown` longer than with fp32 or bf16 for all layers, whichever is faster. The rest are treated as class bf16.
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
    """LADQ's report for each layer from the last checkpoint of a run folder. InputError if the run did not use LADQ."""
    return _reports(read_ladq(run))


def read_ladq(run: str | Path) -> LadqState:
    """LADQ's state in the last checkpoint of a run folder. InputError if the run did not use LADQ."""
    controller = _controller_state(run)
    if "traces" not in controller:
        raise InputError(f"no checkpoint in {run} was trained with precision ladq")
    return _read_state(controller)


def fp8_report(run: str | Path) -> dict[str, Fp8Counts]:
    """The counts of each layer that was in fp8 at the last sample, from the last checkpoint of a run folder.

    InputError if the run used neither precision fp8 nor ladq.
    """
    state = _controller_state(run)
    if not state:
        raise InputError(f"no checkpoint in {run} was trained with precision fp8 or ladq")
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
    """The counts of the layers that were in fp8."""
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
