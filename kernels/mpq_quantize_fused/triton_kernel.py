"""`mpq_quantize_fused` in Triton: torch projects, then the search of `mpq_quantize`."""

from functools import partial

import torch

from ..mpq_quantize.triton_kernel import objection as _objection
from ..mpq_quantize.triton_kernel import quantize
from .reference import quantize_projected

__all__ = ["objection", "run"]


def objection(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> str | None:
    return _objection(hidden_BMH, codebooks_MKE)


run = partial(quantize_projected, quantize)
