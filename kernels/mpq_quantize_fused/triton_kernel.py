"""`mpq_quantize_fused` in Triton: torch projects, then the search of `mpq_quantize`."""

import torch

from ..mpq_quantize import triton_kernel
from ..mpq_quantize.reference import MpqQuantize
from .reference import MpqQuantizeFused, projected

__all__ = ["objection", "run"]


def objection(call: MpqQuantizeFused) -> str | None:
    return triton_kernel.objection(MpqQuantize(call.hidden_BMH, call.codebooks_MKE))


def run(call: MpqQuantizeFused) -> tuple[torch.Tensor, torch.Tensor]:
    return triton_kernel.run(*projected(call))
