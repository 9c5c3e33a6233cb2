"""Counts, at a few steps of a run, of values of a layer that fp8 rounds to zero and of values that are not finite.

A scale is always computed from the values that it scales, so no value is too large for the format. But values that are
much smaller than the largest one become zero, and a NaN or inf spreads (`ops.fp8_linear`).
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
    """A layer at one sampled step: the fraction of nonzero values that fp8 rounds to zero, and non-finite values."""

    inputs: float
    weight: float
    grads: float
    """fraction for the gradients of the output"""
    not_finite: int
    """number of NaN and infinite values in inputs, weight and gradients"""


class Fp8Sample:
    """Counts over one step's rows in the layers that are in fp8, summed over processes; waits for the device once."""

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
    """Add to the counts: rows are inputs, weight and gradients; columns are those of `_counted`."""

    def count_grads(grad: Tensor) -> None:
        counts_33[2] += _counted(grad, torch.float8_e5m2)

    if output.requires_grad and isinstance(layer, Linear):
        counts_33[0] += _counted(args[0], torch.float8_e4m3fn)
        if distributed.is_first():  # all processes have the same weight, which must count once
            counts_33[1] = _counted(layer.weight, torch.float8_e4m3fn)
        output.register_hook(count_grads)


def _counted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Number of nonzero values that become zero, of nonzero values, and of values that are not finite."""
    tensor_TD = tensor.detach().flatten(0, -2)
    rounded_TD = ops.fp8_quantize(tensor_TD, dtype, rowwise=False).values.float()
    there_TD = tensor_TD != 0
    return torch.stack([(there_TD & (rounded_TD == 0)).sum(), there_TD.sum(), (~tensor_TD.isfinite()).sum()])


def _shares(rows: list[list[int]]) -> Fp8Counts:
    inputs, weight, grads = (lost / max(there, 1) for lost, there, _ in rows)
    return Fp8Counts(inputs, weight, grads, sum(row[2] for row in rows))


def fp8_metrics(samples: Iterable[Mapping[str, Fp8Counts]]) -> dict[str, float]:
    """Metrics: the largest fractions of any layer at the last sample, and the non-finite values of all samples."""
    taken = [counts for counts in samples if counts]
    if not taken:
        return {}
    largest = {name: max(getattr(row, name) for row in taken[-1].values()) for name in ("inputs", "weight", "grads")}
    not_finite = sum(row.not_finite for counts in taken for row in counts.values())
    return {f"fp8_zeroed_{name}": share for name, share in largest.items()} | {"fp8_not_finite": float(not_finite)}


class Fp8Watch:
    """The controller of a run with precision fp8: it counts every `every` steps and changes nothing."""

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
    """The history of counts from the state of an `Fp8Watch` in a checkpoint."""
    history = state.get("history", ())  # checkpoints of older versions have none
    return [(step, {name: Fp8Counts(*values) for name, values in rows.items()}) for step, rows in history]
