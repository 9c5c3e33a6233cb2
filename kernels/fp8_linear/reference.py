"""The definition of `fp8_linear` in PyTorch: a scale per tensor, or per row of every operand; real fp8 products."""

from typing import NamedTuple

import torch
from torch.nn.functional import pad

__all__ = [
    "Operand",
    "fp8_linear_backward_reference",
    "fp8_linear_reference",
    "fp8_quantize",
    "fp8_weight_reference",
    "kept",
]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Operand(NamedTuple):
    """fp8 values with the summed axis last, and the largest magnitude of all, (1, 1), or of each row, (T, 1)."""

    values: torch.Tensor
    largest: torch.Tensor

    @property
    def scale(self) -> torch.Tensor:
        """float32, what turns the values back: the largest magnitude is the format's largest."""
        return _scale(self.largest, self.values.dtype)


def fp8_quantize(tensor_TD: torch.Tensor, dtype: torch.dtype, rowwise: bool) -> Operand:
    """The tensor as `values` of a format of fp8, with one `scale` that turns them back, or one for each row."""
    tensor_TD = tensor_TD.detach()
    if tensor_TD.numel():
        largest = tensor_TD.abs().amax(1 if rowwise else (0, 1), keepdim=True)
    else:
        largest = tensor_TD.new_zeros(len(tensor_TD) if rowwise else 1, 1)
    return Operand((tensor_TD.float() / _scale(largest, dtype)).to(dtype).contiguous(), largest)


def fp8_weight_reference(weight_OD: torch.Tensor, rowwise: bool) -> tuple[torch.Tensor, ...]:
    """The fields of `Fp8Weight`"""
    return *fp8_quantize(weight_OD, E4M3, rowwise), *fp8_quantize(weight_OD.T, E4M3, rowwise)


def fp8_linear_reference(
    x_TD: torch.Tensor,
    weight_OD: torch.Tensor,
    bias_O: torch.Tensor | None,
    rowwise: bool,
    *weight8: torch.Tensor | None,
) -> torch.Tensor:
    """y_TO; weight8: the fields of `Fp8Weight`, or None for each"""
    right = kept(*weight8[:2]) or fp8_quantize(weight_OD, E4M3, rowwise)
    y_TO = _product(fp8_quantize(x_TD, E4M3, rowwise), right, x_TD.dtype)
    return y_TO if bias_O is None else y_TO + bias_O


def fp8_linear_backward_reference(
    grad_TO: torch.Tensor, x_TD: torch.Tensor, weight_OD: torch.Tensor, rowwise: bool, *columns8: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_grad_TD, weight_grad_OD); a row of an operand is a row of the result, so that no scale changes inside a sum"""
    right = kept(*columns8) or fp8_quantize(weight_OD.T, E4M3, rowwise)
    x_grad_TD = _product(fp8_quantize(grad_TO, E5M2, rowwise), right, x_TD.dtype)
    weight_grad_OD = _product(fp8_quantize(grad_TO.T, E5M2, rowwise), fp8_quantize(x_TD.T, E4M3, rowwise), x_TD.dtype)
    return x_grad_TD, weight_grad_OD


def kept(values: torch.Tensor | None, largest: torch.Tensor | None) -> Operand | None:
    """A layout of the weight that the caller gives."""
    return None if values is None or largest is None else Operand(values, largest)


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
    """Zeros up to a multiple of 16 along the axis that is summed, which GPUs need."""
    missing = -values_TD.shape[1] % 16
    return pad(values_TD.view(torch.uint8), (0, missing)).view(values_TD.dtype) if missing else values_TD
