"""`mpq_quantize_fused` in Triton: torch projects, then the search of `mpq_quantize`."""

import torch

from ..mpq_quantize.native import Projection
from ..mpq_quantize.triton_kernel import objection as _objection
from ..mpq_quantize.triton_kernel import quantize
from .reference import project

__all__ = ["objection", "run"]


def objection(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> str | None:
    return _objection(hidden_BMH, codebooks_MKE)


def run(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    latents_BME, error_BM = project(hidden_BMH, weight_MEH, bias_ME)
    return quantize(latents_BME, codebooks_MKE, gate_BM, Projection(error_BM, hidden_BMH, weight_MEH, bias_ME))
