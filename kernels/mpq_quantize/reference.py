"""The definition of `mpq_quantize` in PyTorch, and the nearest-codeword search that its fused form shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..folding import folded_sum

__all__ = [
    "MpqQuantize",
    "Projection",
    "empty_results",
    "mix_codewords",
    "mpq_quantize_reference",
    "nearest_codes",
    "product_error",
]

_TILE = 1 << 22
"""Scores held at a time, (rows of a tile, M, K), whatever B is."""


class Projection(NamedTuple):
    """What latents were computed from; error_BM bounds the length of their error vectors."""

    error_BM: torch.Tensor
    hidden_BMH: torch.Tensor
    weight_MEH: torch.Tensor
    bias_ME: torch.Tensor


class MpqQuantize(NamedTuple):
    """A call of `mpq_quantize`."""

    latents_BME: torch.Tensor
    codebooks_MKE: torch.Tensor
    gate_BM: torch.Tensor | None = None


def empty_results(call: MpqQuantize) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE), not yet written to"""
    num_rows, num_books, width = call.latents_BME.shape
    ids_BM = call.latents_BME.new_empty(num_rows, num_books, dtype=torch.int64)
    return ids_BM, call.codebooks_MKE.new_empty(num_rows, width)


def mpq_quantize_reference(call: MpqQuantize) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE)"""
    latents_BME, codebooks_MKE, gate_BM = call
    work_BME = latents_BME.to(work_dtype(latents_BME))
    ids_BM = nearest_codes(work_BME, codebooks_MKE, None, lambda row_X, book_X: work_BME[row_X, book_X].double())
    return ids_BM, mix_codewords(ids_BM, codebooks_MKE, gate_BM)


def work_dtype(tensor: torch.Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def product_error(size: int, dtype: torch.dtype) -> float:
    """A bound on the relative error of an inner product of `size` terms, under torch's matmul precision setting."""
    operands = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
    return (size + 4) * torch.finfo(dtype).eps + (operands if dtype == torch.float32 else 0.0)


def nearest_codes(
    latents_BME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    error_BM: torch.Tensor | None,
    exact: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """ids_BM of the nearest codewords; those with scores too close are compared in fp64, ties go to the lowest index.

    All are compared in fp64 if a score may overflow or is NaN. `error_BM` bounds the length of the latents' error
    vectors, `exact(row_X, book_X)` gives latents_XE in fp64.
    """
    num_rows, num_books, _ = latents_BME.shape
    books_MKE = codebooks_MKE.to(latents_BME.dtype)
    half_MK = 0.5 * books_MKE.square().sum(-1)  # |c|^2 / 2 - x.c orders codewords c as |x - c| does
    longest_M = books_MKE.double().square().sum(-1).amax(1).sqrt().to(half_MK.dtype)  # squares may underflow float32
    ids_BM = torch.empty(num_rows, num_books, dtype=torch.int64, device=latents_BME.device)
    step = max(1, _TILE // half_MK.numel())
    for start in range(0, num_rows, step):
        chunk_bME = latents_BME[start : start + step]
        score_MbK = torch.baddbmm(half_MK.unsqueeze(1), chunk_bME.transpose(0, 1), books_MKE.mT, alpha=-1)
        best_Mb, id_Mb = score_MbK.min(-1)
        ids_BM[start : start + step] = id_Mb.T
        slack_bM = _slack(chunk_bME, longest_M, None if error_BM is None else error_BM[start : start + step])
        close_MbK = ~(score_MbK > (best_Mb + slack_bM.T).unsqueeze(-1))
        book_X, row_X = (close_MbK.sum(-1) > 1).nonzero(as_tuple=True)
        if len(row_X):
            candidates_XK, row_X = close_MbK[book_X, row_X], row_X + start
            ids_BM[row_X, book_X] = _decide(candidates_XK, exact(row_X, book_X), book_X, codebooks_MKE)
    return ids_BM


def _slack(latents_bME: torch.Tensor, longest_M: torch.Tensor, error_bM: torch.Tensor | None) -> torch.Tensor:
    """slack_bM: two scores further apart than this are in the right order despite rounding."""
    numbers = torch.finfo(latents_bME.dtype)
    reach_bM = latents_bME.norm(dim=-1) + 0.5 * longest_M
    relative = product_error(latents_bME.shape[-1], latents_bME.dtype)
    slack_bM = 2 * longest_M * (relative * reach_bM + (0 if error_bM is None else error_bM)) + numbers.tiny
    return torch.where(longest_M * reach_bM < 0.5 * numbers.max, slack_bM, torch.inf)


def _decide(
    candidates_XK: torch.Tensor, latents_XE: torch.Tensor, book_X: torch.Tensor, codebooks_MKE: torch.Tensor
) -> torch.Tensor:
    """The nearest of the candidates in fp64, ties to the lowest index; NaN counts as infinitely far.

    |c|^2 - 2 x.c orders codewords as distances do, and still distinguishes them where |x| is much larger; it keeps the
    tie of an x halfway between two.
    """
    distance_XK = torch.full(candidates_XK.shape, torch.inf, dtype=torch.float64, device=candidates_XK.device)
    pair_T, code_T = candidates_XK.nonzero(as_tuple=True)
    step = max(1, _TILE // latents_XE.shape[1])
    for start in range(0, len(pair_T), step):
        pair_t, code_t = pair_T[start : start + step], code_T[start : start + step]
        codewords_tE = codebooks_MKE[book_X[pair_t], code_t].double()
        distance_XK[pair_t, code_t] = folded_sum(codewords_tE * (codewords_tE - 2 * latents_XE[pair_t]))
    return distance_XK.nan_to_num(torch.inf, torch.inf, -torch.inf).argmin(1)


def mix_codewords(ids_BM: torch.Tensor, codebooks_MKE: torch.Tensor, gate_BM: torch.Tensor | None) -> torch.Tensor:
    """mixed_BE: the gated sum of the selected codewords, added in the order of the codebooks."""
    mixed_BE = torch.zeros(len(ids_BM), codebooks_MKE.shape[2], dtype=work_dtype(codebooks_MKE), device=ids_BM.device)
    for book, codewords_KE in enumerate(codebooks_MKE):
        selected_BE = codewords_KE[ids_BM[:, book]].to(mixed_BE.dtype)
        mixed_BE += selected_BE if gate_BM is None else gate_BM[:, book, None] * selected_BE
    return mixed_BE.to(codebooks_MKE.dtype)


def mpq_quantize_save(ctx: Any, call: MpqQuantize, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[0], call.codebooks_MKE, call.gate_BM)
    ctx.mark_non_differentiable(output[0])


def mpq_quantize_backward(ctx: Any, _: Any, grad_BE: torch.Tensor) -> dict[str, torch.Tensor]:
    ids_BM, codebooks_MKE, gate_BM = ctx.saved_tensors
    latents = {"latents_BME": latent_gradient(grad_BE, ids_BM, gate_BM)}
    return latents | gate_gradient(grad_BE, ids_BM, codebooks_MKE, gate_BM)


def latent_gradient(grad_BE: torch.Tensor, ids_BM: torch.Tensor, gate_BM: torch.Tensor | None) -> torch.Tensor:
    """Straight through: latents_BME receive the gradient of the mixture, scaled by their gate."""
    if gate_BM is None:
        return grad_BE.unsqueeze(1).repeat(1, ids_BM.shape[1], 1)
    return gate_BM.unsqueeze(2) * grad_BE.unsqueeze(1)


def gate_gradient(
    grad_BE: torch.Tensor, ids_BM: torch.Tensor, codebooks_MKE: torch.Tensor, gate_BM: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """gate_BM, if given, receives the inner product of the gradient and the selected codeword."""
    if gate_BM is None:
        return {}
    columns = [(grad_BE * book_KE[id_B]).sum(1) for book_KE, id_B in zip(codebooks_MKE, ids_BM.unbind(1), strict=True)]
    return {"gate_BM": torch.stack(columns, dim=1)}
