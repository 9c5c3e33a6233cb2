"""The two backward products of `fp8_linear` in Triton: one pass over the gradient serves both."""

import torch

from ..triton_parts import on_device
from .reference import E4M3, E5M2, Fp8LinearBackward
from .triton_kernel import multiply, objection, quantize

__all__ = ["objection", "run"]


def run(call: Fp8LinearBackward) -> tuple[torch.Tensor, torch.Tensor]:
    grad_TO, x_TD, weight_OD, scaling, columns8 = call
    rowwise = scaling == "rowwise"
    if len(x_TD) == 0:
        return x_TD.new_empty(x_TD.shape), weight_OD.new_zeros(weight_OD.shape)
    with on_device(x_TD):
        grad8_TO, grad8_OT = quantize(grad_TO, E5M2, rowwise, rows=True, columns=True)
        weight8_DO = columns8 or quantize(weight_OD, E4M3, rowwise, columns=True)[0]
        (x8_DT,) = quantize(x_TD, E4M3, rowwise, columns=True)
        return multiply(grad8_TO, weight8_DO, x_TD.dtype), multiply(grad8_OT, x8_DT, x_TD.dtype)
