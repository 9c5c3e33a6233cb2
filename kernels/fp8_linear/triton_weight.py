"""`fp8_weight` in Triton: one pass over the weight writes both layouts."""

import torch

from ..triton_parts import on_device
from .reference import E4M3, MakeFp8Weight
from .triton_kernel import objection, quantize

__all__ = ["objection", "run"]


def run(call: MakeFp8Weight) -> tuple[torch.Tensor, ...]:
    with on_device(call.weight_OD):
        rows, columns = quantize(call.weight_OD, E4M3, call.scaling == "rowwise", rows=True, columns=True)
        # an op may not return one tensor twice, and one scale serves both layouts
        return *rows, columns.values, columns.largest.clone()
