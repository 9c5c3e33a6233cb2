"""The definition of `mpq_quantize_fused` in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch

from ..folding import folded_sum
from ..mpq_quantize.reference import (
    Projection,
    gate_gradient,
    latent_gradient,
    mix_codewords,
    nearest_codes,
    product_error,
    work_dtype,
)

__all__ = [
    "mpq_quantize_fused_backward",
    "mpq_quantize_fused_reference",
    "mpq_quantize_fused_save",
    "quantize_projected",
]

_TILE = 1 << 22
"""Products held at a time where latents are computed in fp64."""


def mpq_quantize_fused_reference(
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE)"""
    latents_BME, error_BM = project(hidden_BMH, weight_MEH, bias_ME)

    def exact(row_X: torch.Tensor, book_X: torch.Tensor) -> torch.Tensor:
        size = max(1, _TILE // weight_MEH[0].numel())
        pieces = zip(row_X.split(size), book_X.split(size), strict=True)
        parts = [_exact_latents(hidden_BMH[row, book], weight_MEH[book], bias_ME[book]) for row, book in pieces]
        return torch.cat(parts)

    ids_BM = nearest_codes(latents_BME, codebooks_MKE, error_BM, exact)
    return ids_BM, mix_codewords(ids_BM, codebooks_MKE, gate_BM)


def _exact_latents(hidden_XH: torch.Tensor, weight_XEH: torch.Tensor, bias_XE: torch.Tensor) -> torch.Tensor:
    """latents_XE in fp64, where products of float32 are exact."""
    return bias_XE.double() + folded_sum(hidden_XH.double()[:, None] * weight_XEH.double())


def project(
    hidden_BMH: torch.Tensor, weight_MEH: torch.Tensor, bias_ME: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents_BME, error_BM): hidden @ weight.T + bias of each codebook, and a bound on the error of its length."""
    dtype = work_dtype(hidden_BMH)
    hidden_MBH, weight_MEH, bias_ME = hidden_BMH.to(dtype).transpose(0, 1), weight_MEH.to(dtype), bias_ME.to(dtype)
    latents_MBE = torch.baddbmm(bias_ME.unsqueeze(1), hidden_MBH, weight_MEH.mT)
    reach_MB = hidden_MBH.norm(dim=2) * weight_MEH.norm(dim=(1, 2)).unsqueeze(1) + bias_ME.norm(dim=1, keepdim=True)
    return latents_MBE.transpose(0, 1), product_error(hidden_MBH.shape[2], dtype) * reach_MB.T


def quantize_projected(
    quantize: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    hidden_BMH: torch.Tensor,
    weight_MEH: torch.Tensor,
    bias_ME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE) by the `quantize` of a backend, which takes latents and what they were computed from."""
    latents_BME, error_BM = project(hidden_BMH, weight_MEH, bias_ME)
    return quantize(latents_BME, codebooks_MKE, gate_BM, Projection(error_BM, hidden_BMH, weight_MEH, bias_ME))


def mpq_quantize_fused_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    hidden_BMH, weight_MEH, _, codebooks_MKE, gate_BM = inputs
    ctx.save_for_backward(output[0], hidden_BMH, weight_MEH, codebooks_MKE, gate_BM)
    ctx.mark_non_differentiable(output[0])


def mpq_quantize_fused_backward(ctx: Any, _: Any, grad_BE: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    ids_BM, hidden_BMH, weight_MEH, codebooks_MKE, gate_BM = ctx.saved_tensors
    latents_MBE = latent_gradient(grad_BE, ids_BM, gate_BM).transpose(0, 1)
    return (
        torch.bmm(latents_MBE, weight_MEH).transpose(0, 1),
        torch.bmm(latents_MBE.mT, hidden_BMH.transpose(0, 1)),
        latents_MBE.sum(1),
        None,
        gate_gradient(grad_BE, ids_BM, codebooks_MKE) if gate_BM is not None else None,
    )
