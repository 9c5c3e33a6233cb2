"""A linear layer that multiplies in a chosen number format, while its weights keep their dtype."""

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
"""Rows are padded to a multiple of this on the CPU: oneDNN spends about half a millisecond on every new shape."""


class Linear(nn.Linear):
    """`torch.nn.Linear` that multiplies in `format` while it trains; input, output and weights keep their dtype.

    In fp8 the layer caches its quantized weight until an optimizer takes a step, the weight is written to or replaced,
    or `format` is set. The layer cannot notice a write through `weight.data`: set `format` after one.

    Paper: LADQ, stated, D12.
    """

    _format: Format = "fp32"
    _kept: tuple[object, Tensor, ops.Fp8Weight] | None = None

    @property
    def format(self) -> Format:
        """The format of products in training; fp32 means the dtype of the weights."""
        return self._format

    @format.setter
    def format(self, wanted: Format) -> None:
        self._format, self._kept = wanted, None

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that the layer supports: fp8 needs both widths to be multiples of 16 (`ops.fp8_linear`)."""
        aligned = self.in_features % 16 == 0 == self.out_features % 16
        return ("fp32", "bf16", "fp8") if aligned else ("fp32", "bf16")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., D) to (..., O)."""
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
        if torch.compiler.is_compiling():  # a compiled graph cannot check whether the weight has changed
            return ops.fp8_linear(x_TD, self.weight, self.bias)
        weight = self.weight
        state = optimizer_steps(), weight.data_ptr(), weight.device, weight._version
        if self._kept is None or self._kept[0] != state:
            # the tuple holds the weight too: otherwise another tensor could get its address and pass for it
            self._kept = (state, self.weight.detach(), ops.fp8_weight(self.weight))
        return ops.fp8_linear(x_TD, self.weight, self.bias, weight8=self._kept[2])


def optimizer_steps() -> int:
    """How many optimizer steps this process took: fused optimizers and FSDP2 change weights but not `_version`."""
    return _optimizers().steps


def weights_state(weights: Sequence[Tensor]) -> tuple[object, ...]:
    """A value that differs after these weights changed.

    The caller must keep the weights alive, or other tensors can get their addresses. A write through `weight.data` goes
    unnoticed.
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
