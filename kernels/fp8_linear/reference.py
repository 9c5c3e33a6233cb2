"""The definition of `fp8_linear` in PyTorch: one scale per tensor, real fp8 products."""

import torch
from torch.nn.functional import pad

__all__ = ["fp8_linear_backward_reference", "fp8_linear_reference", "quantize_tensorwise"]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def fp8_linear_reference(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """y_TO"""
    x8_TD, x_scale = quantize_tensorwise(x_TD, E4M3)
    weight8_OD, weight_scale = quantize_tensorwise(weight_OD, E4M3)
    y_TO = _product(x8_TD, x_scale, weight8_OD, weight_scale, x_TD.dtype)
    return y_TO if bias_O is None else y_TO + bias_O


def fp8_linear_backward_reference(
    grad_TO: torch.Tensor, x_TD: torch.Tensor, weight_OD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x_grad_TD, weight_grad_OD)"""
    grad8_TO, grad_scale = quantize_tensorwise(grad_TO, E5M2)
    x8_TD, x_scale = quantize_tensorwise(x_TD, E4M3)
    weight8_OD, weight_scale = quantize_tensorwise(weight_OD, E4M3)
    x_grad_TD = _product(grad8_TO, grad_scale, weight8_OD.T, weight_scale, x_TD.dtype)
    weight_grad_OD = _product(_rows_of_16(grad8_TO).T, grad_scale, _rows_of_16(x8_TD).T, x_scale, x_TD.dtype)
    return x_grad_TD, weight_grad_OD


def quantize_tensorwise(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(the tensor in fp8, the float32 scale that turns it back); the largest magnitude becomes the format's largest."""
    largest = tensor.detach().abs().amax().float() if tensor.numel() else tensor.new_zeros((), dtype=torch.float32)
    scale = torch.where(largest == 0, 1.0, largest / torch.finfo(dtype).max)
    return (tensor.detach().float() / scale).to(dtype), scale


def _product(
    left_AX: torch.Tensor,
    left_scale: torch.Tensor,
    right_BX: torch.Tensor,
    right_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """left @ right.T with both operands along the axis that is summed."""
    left_AX, right_BX = left_AX.contiguous(), right_BX.contiguous()
    if left_AX.numel() == 0:
        return torch.zeros(len(left_AX), len(right_BX), dtype=dtype, device=left_AX.device)
    if left_AX.is_cuda:
        return torch._scaled_mm(left_AX, right_BX.T, scale_a=left_scale, scale_b=right_scale, out_dtype=dtype)
    # the same sums: fp8 products are exact in float32, and torch's own CPU loop takes a thousand times longer
    return (left_AX.float() @ right_BX.float().T * (left_scale * right_scale)).to(dtype)


def _rows_of_16(tensor_TD: torch.Tensor) -> torch.Tensor:
    """Rows of zeros up to a multiple of 16, which fp8 products need along the axis that they sum."""
    missing = -len(tensor_TD) % 16
    return pad(tensor_TD.view(torch.uint8), (0, 0, 0, missing)).view(tensor_TD.dtype) if missing else tensor_TD
