"""The definition of `mpq_quantize_fused` in PyTorch."""

from typing import Any, NamedTuple

import torch

from ..folding import folded_sum
from ..mpq_quantize.reference import (
    MpqQuantize,
    Projection,
    gate_gradient,
    latent_gradient,
    mix_codewords,
    nearest_codes,
    product_error,
    work_dtype,
)

__all__ = [
    "MpqQuantizeFused",
    "mpq_quantize_fused_backward",
    "mpq_quantize_fused_reference",
    "mpq_quantize_fused_save",
    "projected",
]

_TILE = 1 << 22
"""Products held at a time while latents are computed in fp64."""


class MpqQuantizeFused(NamedTuple):
    """A call of `mpq_quantize_fused`."""

    hidden_BMH: torch.Tensor
    weight_MEH: torch.Tensor
    bias_ME: torch.Tensor
    codebooks_MKE: torch.Tensor
    gate_BM: torch.Tensor | None = None


def mpq_quantize_fused_reference(call: MpqQuantizeFused) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE)"""
    hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM = call
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
    """(latents_BME, error_BM): hidden @ weight.T + bias of each codebook, and a bound on the length of its error."""
    dtype = work_dtype(hidden_BMH)
    hidden_MBH, weight_MEH, bias_ME = hidden_BMH.to(dtype).transpose(0, 1), weight_MEH.to(dtype), bias_ME.to(dtype)
    latents_MBE = torch.baddbmm(bias_ME.unsqueeze(1), hidden_MBH, weight_MEH.mT)
    reach_MB = hidden_MBH.norm(dim=2) * weight_MEH.norm(dim=(1, 2)).unsqueeze(1) + bias_ME.norm(dim=1, keepdim=True)
    return latents_MBE.transpose(0, 1), product_error(hidden_MBH.shape[2], dtype) * reach_MB.T


def projected(call: MpqQuantizeFused) -> tuple[MpqQuantize, Projection]:
    """The call of `mpq_quantize` for the latents, and what they were computed from."""
    hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM = call
    latents_BME, error_BM = project(hidden_BMH, weight_MEH, bias_ME)
    return MpqQuantize(latents_BME, codebooks_MKE, gate_BM), Projection(error_BM, hidden_BMH, weight_MEH, bias_ME)


def mpq_quantize_fused_save(ctx: Any, call: MpqQuantizeFused, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[0], call.hidden_BMH, call.weight_MEH, call.codebooks_MKE, call.gate_BM)
    ctx.mark_non_differentiable(output[0])


def mpq_quantize_fused_backward(ctx: Any, _: Any, grad_BE: torch.Tensor) -> dict[str, torch.Tensor]:
    ids_BM, hidden_BMH, weight_MEH, codebooks_MKE, gate_BM = ctx.saved_tensors
    latents_MBE = latent_gradient(grad_BE, ids_BM, gate_BM).transpose(0, 1)
    return {
        "hidden_BMH": torch.bmm(latents_MBE, weight_MEH).transpose(0, 1),
        "weight_MEH": torch.bmm(latents_MBE.mT, hidden_BMH.transpose(0, 1)),
        "bias_ME": latents_MBE.sum(1),
    } | gate_gradient(grad_BE, ids_BM, codebooks_MKE, gate_BM)
