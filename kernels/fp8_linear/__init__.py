"""`fp8_linear`: a linear layer whose three products run in fp8."""

from typing import Any

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import fp8_linear_backward_reference, fp8_linear_reference

__all__ = ["fp8_linear"]

_DTYPES = (torch.float32, torch.bfloat16)


def fp8_linear(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """y_TO = x @ weight.T + bias with fp8 operands, one scale per tensor: e4m3 for x and weight, e5m2 for gradients.

    Forward and both backward products sum in float32 and come back in the dtype of x, which weight and bias share
    (float32 or bfloat16). D and O must be multiples of 16; T is free, may be 0, and is padded inside. The scale of x
    comes from the whole batch, so a split batch gives slightly other numbers. NaN or inf in x or weight spreads to
    every row. ValueError for a wrong dtype, device or shape.

    Paper: LADQ, stated (formats: ours, D12)
    """
    return OP(x_TD, weight_OD, bias_O)


def _check(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None = None) -> tuple:
    sizes = bind("fp8_linear", {"x_TD": x_TD, "weight_OD": weight_OD, "bias_O": bias_O}, float_dtypes=_DTYPES)
    for letter in "DO":
        if sizes[letter] % 16 or sizes[letter] == 0:
            raise ValueError(f"fp8_linear: {letter} must be a multiple of 16, found {sizes[letter]}")
    return x_TD, weight_OD, bias_O


def _fake(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    return x_TD.new_empty(x_TD.shape[0], weight_OD.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.has_bias = inputs[2] is not None


def _backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*BACKWARD.library(grad_TO, *ctx.saved_tensors), grad_TO.sum(0) if ctx.has_bias else None)


def _backward_fake(
    grad_TO: torch.Tensor, x_TD: torch.Tensor, weight_OD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return x_TD.new_empty(x_TD.shape), weight_OD.new_empty(weight_OD.shape)


OP = Op(
    "fp8_linear",
    "(Tensor x_TD, Tensor weight_OD, Tensor? bias_O) -> Tensor",
    check=_check,
    reference=fp8_linear_reference,
    fake=_fake,
    implementations={"triton": "triton_kernel"},
    save=_save,
    backward=_backward,
)
BACKWARD = Op(
    "fp8_linear_backward",
    "(Tensor grad_TO, Tensor x_TD, Tensor weight_OD) -> (Tensor, Tensor)",
    check=lambda *flat: flat,
    reference=fp8_linear_backward_reference,
    fake=_backward_fake,
    implementations={"triton": "triton_backward"},
)
