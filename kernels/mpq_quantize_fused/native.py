"""`mpq_quantize_fused` on the CPU: torch projects, then the search of `mpq_quantize` in C++."""

import torch

from ..mpq_quantize.native import Projection, objection, quantize
from .reference import project

__all__ = ["objection", "run"]


def run(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    latents_BME, error_BM = project(hidden_BMH, weight_MEH, bias_ME)
    return quantize(latents_BME, codebooks_MKE, gate_BM, Projection(error_BM, hidden_BMH, weight_MEH, bias_ME))
