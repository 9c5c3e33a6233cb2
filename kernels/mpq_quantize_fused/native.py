"""`mpq_quantize_fused` on the CPU: torch projects, then the search of `mpq_quantize` in C++."""

import torch

from ..mpq_quantize import native
from ..mpq_quantize.reference import MpqQuantize
from .reference import MpqQuantizeFused, projected

__all__ = ["objection", "run"]


def objection(call: MpqQuantizeFused) -> str | None:
    return native.objection(MpqQuantize(call.hidden_BMH, call.codebooks_MKE))


def run(call: MpqQuantizeFused) -> tuple[torch.Tensor, torch.Tensor]:
    return native.run(*projected(call))
