"""A linear layer whose products run in the number format that it was given; its weights stay as they are."""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from reg4rec import ops

__all__ = ["Format", "Linear", "optimizer_steps", "weights_state"]

Format = Literal["fp32", "bf16", "fp8"]
ROWS = 64
"""On the CPU oneDNN prepares every new shape for about half a millisecond, so rows are filled up to few numbers."""


class Linear(nn.Linear):
    """`torch.nn.Linear`, which while training multiplies in `format`; input, output and weights keep their dtype.

    In fp8 it keeps the quantized weight until an optimizer has made a step, the weight has been written to or replaced,
    or `format` is set. A write through `weight.data` shows nowhere: set `format` after it.

    Paper: LADQ, stated, D12.
    """

    _format: Format = "fp32"
    _kept: tuple[object, Tensor, ops.Fp8Weight] | None = None

    @property
    def format(self) -> Format:
        """fp32 stands for the dtype of the weights"""
        return self._format

    @format.setter
    def format(self, wanted: Format) -> None:
        self._format, self._kept = wanted, None

    @property
    def formats(self) -> tuple[Format, ...]:
        """What the layer can multiply in: fp8 needs both widths to be multiples of 16 (`ops.fp8_linear`)."""
        aligned = self.in_features % 16 == 0 == self.out_features % 16
        return ("fp32", "bf16", "fp8") if aligned else ("fp32", "bf16")

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., O)"""
        if not self.training or self.format == "fp32":
            return super().forward(x)
        x_TD = x.flatten(0, -2)
        y_TO = self._bf16(x_TD) if self.format == "bf16" else self._fp8(x_TD)
        return y_TO.unflatten(0, x.shape[:-1])

    def _bf16(self, x_TD: Tensor) -> Tensor:
        missing = 0 if x_TD.is_cuda else -len(x_TD) % ROWS
        filled_TD = F.pad(x_TD.to(torch.bfloat16), (0, 0, 0, missing))
        bias_O = None if self.bias is None else self.bias.to(torch.bfloat16)
        return F.linear(filled_TD, self.weight.to(torch.bfloat16), bias_O)[: len(x_TD)].to(x_TD.dtype)

    def _fp8(self, x_TD: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a graph cannot tell whether the weight has changed
            return ops.fp8_linear(x_TD, self.weight, self.bias)
        weight = self.weight
        state = optimizer_steps(), weight.data_ptr(), weight.device, weight._version
        if self._kept is None or self._kept[0] != state:
            # the weight itself is held too, so that no other can take its address
            self._kept = (state, self.weight.detach(), ops.fp8_weight(self.weight))
        return ops.fp8_linear(x_TD, self.weight, self.bias, weight8=self._kept[2])


def optimizer_steps() -> int:
    """The steps of this process so far: fused optimizers and FSDP2 change weights without raising their `_version`."""
    return _optimizers().steps


def weights_state(weights: Sequence[Tensor]) -> tuple[object, ...]:
    """Another one after these weights changed, as long as someone holds them, so that no others take their place.

    A write through `weight.data` shows nowhere.
    """
    versions = [-1 if weight.is_inference() else weight._version for weight in weights]
    return optimizer_steps(), [weight.data_ptr() for weight in weights], versions


class _Optimizers:
    def __init__(self) -> None:
        self.steps = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: object) -> None:
        self.steps += 1


@functools.cache
def _optimizers() -> _Optimizers:
    return _Optimizers()
