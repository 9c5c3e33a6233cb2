"""What fp8 does to the values of a layer, counted at a few steps of a run.

A scale is always made of the values that it scales, so that none is too large for the format and none saturates. Small
values beside large ones become zero, and a NaN or inf spreads (`ops.fp8_linear`).
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reg4rec import distributed, ops
from reg4rec.model import Linear

__all__ = ["Fp8Counts", "Fp8Sample", "Fp8Watch", "fp8_metrics"]


class Fp8Counts(NamedTuple):
    """A layer at one sampled step: which part of the values that are not zero fp8 made zero, and what was no number."""

    inputs: float
    weight: float
    grads: float
    """of the output"""
    not_finite: int
    """NaN and infinite values in all three"""


class Fp8Sample:
    """Counts over the rows of one step, of all processes, in the layers that are in fp8; waits for the device once."""

    def __init__(self, layers: Mapping[str, Linear]):
        chosen = {name: layer for name, layer in layers.items() if layer.format == "fp8"}
        self.counts = {
            name: torch.zeros(3, 3, dtype=torch.int64, device=layer.weight.device) for name, layer in chosen.items()
        }
        self.hooks: list[RemovableHandle] = [
            layer.register_forward_hook(functools.partial(_count_layer, self.counts[name]))
            for name, layer in chosen.items()
        ]

    def finish(self) -> dict[str, Fp8Counts]:
        for hook in self.hooks:
            hook.remove()
        if not self.counts:
            return {}
        totals = distributed.total(torch.stack(list(self.counts.values()))).tolist()
        return {name: _shares(rows) for name, rows in zip(self.counts, totals, strict=True)}


def _count_layer(counts_33: Tensor, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    """Rows: inputs, weight, gradients; columns as `_counted` gives them."""

    def count_grads(grad: Tensor) -> None:
        counts_33[2] += _counted(grad, torch.float8_e5m2)

    if output.requires_grad and isinstance(layer, Linear):
        counts_33[0] += _counted(args[0], torch.float8_e4m3fn)
        if distributed.is_first():  # all have the same weight
            counts_33[1] = _counted(layer.weight, torch.float8_e4m3fn)
        output.register_hook(count_grads)


def _counted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Values that become zero, that are not zero, that are no numbers."""
    tensor_TD = tensor.detach().flatten(0, -2)
    rounded_TD = ops.fp8_quantize(tensor_TD, dtype, rowwise=False).values.float()
    there_TD = tensor_TD != 0
    return torch.stack([(there_TD & (rounded_TD == 0)).sum(), there_TD.sum(), (~tensor_TD.isfinite()).sum()])


def _shares(rows: list[list[int]]) -> Fp8Counts:
    inputs, weight, grads = (lost / max(there, 1) for lost, there, _ in rows)
    return Fp8Counts(inputs, weight, grads, sum(row[2] for row in rows))


def fp8_metrics(samples: Iterable[Mapping[str, Fp8Counts]]) -> dict[str, float]:
    """For a line of metrics: the largest shares of any layer at the last sample, and all that was no number so far."""
    taken = [counts for counts in samples if counts]
    if not taken:
        return {}
    largest = {name: max(getattr(row, name) for row in taken[-1].values()) for name in ("inputs", "weight", "grads")}
    not_finite = sum(row.not_finite for counts in taken for row in counts.values())
    return {f"fp8_zeroed_{name}": share for name, share in largest.items()} | {"fp8_not_finite": float(not_finite)}


class Fp8Watch:
    """The controller of a run in fp8 throughout: it counts every `every` steps and changes nothing."""

    def __init__(self, layers: Mapping[str, Linear], every: int):
        self.layers, self.every = layers, every
        self.sample: Fp8Sample | None = None
        self.history: list[tuple[int, dict[str, Fp8Counts]]] = []

    def before_forward(self, step: int) -> None:
        if (step + 1) % self.every == 0:
            self.sample = Fp8Sample(self.layers)

    def after_backward(self, step: int, loss: Tensor) -> None:
        if self.sample is not None:
            self.history.append((step, self.sample.finish()))
            self.sample = None

    def report(self) -> dict[str, float]:
        return fp8_metrics(counts for _, counts in self.history)

    def state(self) -> dict[str, Any]:
        return {"history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self.history = read_counts(state)


def read_counts(state: dict[str, Any]) -> list[tuple[int, dict[str, Fp8Counts]]]:
    """The history in the state that a checkpoint has of an `Fp8Watch`."""
    history = state.get("history", ())  # runs began before there were counts
    return [(step, {name: Fp8Counts(*values) for name, values in rows.items()}) for step, rows in history]
