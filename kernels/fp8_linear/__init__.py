"""`fp8_linear`: a linear layer whose three products run in fp8."""

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import fp8_linear_backward, fp8_linear_reference, fp8_linear_save

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


OP = Op(
    "fp8_linear",
    "(Tensor x_TD, Tensor weight_OD, Tensor? bias_O) -> Tensor",
    check=_check,
    reference=fp8_linear_reference,
    fake=_fake,
    save=fp8_linear_save,
    backward=fp8_linear_backward,
)
