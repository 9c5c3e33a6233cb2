"""The definition of `fp8_linear` in PyTorch: a scale per tensor, or per row of every operand; real fp8 products."""

from typing import Literal, NamedTuple

import torch
from torch.nn.functional import pad

__all__ = [
    "Fp8Linear",
    "Fp8LinearBackward",
    "Fp8Weight",
    "MakeFp8Weight",
    "Operand",
    "Scaling",
    "fp8_linear_backward_reference",
    "fp8_linear_reference",
    "fp8_quantize",
    "fp8_weight_reference",
]

Scaling = Literal["tensorwise", "rowwise"]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Operand(NamedTuple):
    """fp8 values with the summed axis last, and the largest magnitude of all, (1, 1), or of each row, (T, 1)."""

    values: torch.Tensor
    largest: torch.Tensor

    @property
    def scale(self) -> torch.Tensor:
        """The float32 factor that turns the values back; it maps the format's largest number to `largest`."""
        return _scale(self.largest, self.values.dtype)


def fp8_quantize(tensor_TD: torch.Tensor, dtype: torch.dtype, rowwise: bool) -> Operand:
    """The tensor in an fp8 dtype, with one `scale` for all values or one per row."""
    tensor_TD = tensor_TD.detach()
    if tensor_TD.numel():
        largest = tensor_TD.abs().amax(1 if rowwise else (0, 1), keepdim=True)
    else:
        largest = tensor_TD.new_zeros(len(tensor_TD) if rowwise else 1, 1)
    return Operand((tensor_TD.float() / _scale(largest, dtype)).to(dtype).contiguous(), largest)


class Fp8Weight(NamedTuple):
    """A weight in e4m3 for the forward and for the backward product, each with its largest magnitudes."""

    rows8_OD: torch.Tensor
    rows_largest: torch.Tensor
    columns8_DO: torch.Tensor
    columns_largest: torch.Tensor


class MakeFp8Weight(NamedTuple):
    """A call of `fp8_weight`."""

    weight_OD: torch.Tensor
    scaling: Scaling = "tensorwise"


class Fp8Linear(NamedTuple):
    """A call of `fp8_linear`."""

    x_TD: torch.Tensor
    weight_OD: torch.Tensor
    bias_O: torch.Tensor | None = None
    scaling: Scaling = "tensorwise"
    weight8: Fp8Weight | None = None


class Fp8LinearBackward(NamedTuple):
    """A call of the backward op of `fp8_linear`; columns8: the columns of its `weight8`."""

    grad_TO: torch.Tensor
    x_TD: torch.Tensor
    weight_OD: torch.Tensor
    scaling: Scaling
    columns8: Operand | None = None


def fp8_weight_reference(call: MakeFp8Weight) -> tuple[torch.Tensor, ...]:
    """The fields of `Fp8Weight`"""
    rowwise = call.scaling == "rowwise"
    return *fp8_quantize(call.weight_OD, E4M3, rowwise), *fp8_quantize(call.weight_OD.T, E4M3, rowwise)


def fp8_linear_reference(call: Fp8Linear) -> torch.Tensor:
    """y_TO"""
    x_TD, rowwise = call.x_TD, call.scaling == "rowwise"
    right = Operand(*call.weight8[:2]) if call.weight8 else fp8_quantize(call.weight_OD, E4M3, rowwise)
    y_TO = _product(fp8_quantize(x_TD, E4M3, rowwise), right, x_TD.dtype)
    return y_TO if call.bias_O is None else y_TO + call.bias_O


def fp8_linear_backward_reference(call: Fp8LinearBackward) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_grad_TD, weight_grad_OD); each row of an operand has one scale, so no scale changes within a sum"""
    grad_TO, x_TD, weight_OD, scaling, columns8 = call
    rowwise = scaling == "rowwise"
    right = columns8 or fp8_quantize(weight_OD.T, E4M3, rowwise)
    x_grad_TD = _product(fp8_quantize(grad_TO, E5M2, rowwise), right, x_TD.dtype)
    weight_grad_OD = _product(fp8_quantize(grad_TO.T, E5M2, rowwise), fp8_quantize(x_TD.T, E4M3, rowwise), x_TD.dtype)
    return x_grad_TD, weight_grad_OD


def _scale(largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.where(largest == 0, 1.0, largest.float() / torch.finfo(dtype).max)


def _product(left: Operand, right: Operand, dtype: torch.dtype) -> torch.Tensor:
    """left_TD @ right_OD.T in `dtype`."""
    left_TD, right_OD = left.values, right.values
    if left_TD.numel() == 0:
        return torch.zeros(len(left_TD), len(right_OD), dtype=dtype, device=left_TD.device)
    if left_TD.is_cuda:
        one = left_TD.new_ones((), dtype=torch.float32)
        left_TD, right_OD = _filled(left_TD), _filled(right_OD)
        sums_TO = torch._scaled_mm(left_TD, right_OD.T, scale_a=one, scale_b=one, out_dtype=torch.float32)
    else:
        # the same sums: fp8 products are exact in float32, and torch's own CPU loop takes a thousand times longer
        sums_TO = left_TD.float() @ right_OD.float().T
    return (sums_TO * (left.scale * right.scale.T)).to(dtype)


def _filled(values_TD: torch.Tensor) -> torch.Tensor:
    """The values, padded with zeros along the summed axis to a multiple of 16, as GPUs require."""
    missing = -values_TD.shape[1] % 16
    return pad(values_TD.view(torch.uint8), (0, missing)).view(values_TD.dtype) if missing else values_TD
