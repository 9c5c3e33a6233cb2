"""`mpq_quantize` in Triton: one kernel searches in fp32, one decides near-ties in fp64 and mixes the codewords."""

import torch
import triton
import triton.language as tl

from ..machine import interpreted
from ..triton_parts import cast, dot, on_device
from .reference import MpqQuantize, Projection, empty_results

__all__ = ["decide_and_mix_kernel", "mix_tiles", "nearest_codes_kernel", "objection", "run", "search_tiles"]

_MAX_WIDTH = 1024
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit(do_not_specialize=["num_rows"])
def nearest_codes_kernel(
    latents_ptr,
    codebooks_ptr,
    error_ptr,
    ids_ptr,
    stride_xb,
    stride_xm,
    stride_xe,
    stride_cm,
    stride_ck,
    stride_ce,
    stride_rb,
    stride_rm,
    num_rows,
    num_books,
    num_codes,
    width,
    relative,
    lost,
    smallest,
    HAS_ERROR: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """ids_BM of the lowest scores 0.5 c.c - x.c, or -1 if the second lowest is too close."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    m = tl.program_id(1).to(tl.int64)
    ok_b = b < num_rows
    e = tl.arange(0, BLOCK_E)
    lane_k = tl.arange(0, BLOCK_K)
    latents_ptr += m * stride_xm + b[:, None] * stride_xb
    codebooks_ptr += m * stride_cm

    # each lane keeps the best and second best of its codes; lanes are compared after the last tile
    best_BK = tl.full((BLOCK_B, BLOCK_K), float("inf"), tl.float32)
    second_BK = tl.full((BLOCK_B, BLOCK_K), float("inf"), tl.float32)
    id_BK = tl.zeros((BLOCK_B, BLOCK_K), tl.int32)
    longest_K = tl.zeros((BLOCK_K,), tl.float32)
    for start_k in range(0, num_codes, BLOCK_K):
        k = start_k + lane_k
        ok_k = k < num_codes
        product_BK = tl.zeros((BLOCK_B, BLOCK_K), tl.float32)
        square_K = tl.zeros((BLOCK_K,), tl.float32)
        for start_e in range(0, width, BLOCK_E):
            ok_e = start_e + e < width
            x_BE = tl.load(latents_ptr + (start_e + e).to(tl.int64) * stride_xe, mask=ok_b[:, None] & ok_e, other=0.0)
            c_ptr = codebooks_ptr + k * stride_ck + (start_e + e)[:, None] * stride_ce
            c_EK = tl.load(c_ptr, mask=ok_e[:, None] & ok_k, other=0.0)
            product_BK += dot(x_BE, c_EK.to(x_BE.dtype), INTERPRETED)
            square_K += tl.sum(c_EK.to(tl.float32) * c_EK.to(tl.float32), axis=0)
        longest_K = tl.maximum(longest_K, square_K)
        score_BK = tl.where(ok_k, 0.5 * square_K - product_BK, float("inf"))
        second_BK = tl.minimum(second_BK, tl.maximum(best_BK, score_BK))
        id_BK = tl.where(score_BK < best_BK, k, id_BK)
        best_BK = tl.minimum(best_BK, score_BK)
    best_B = tl.min(best_BK, axis=1)
    id_B = tl.min(tl.where(best_BK == best_B[:, None], id_BK, num_codes), axis=1)
    other_BK = tl.where(lane_k == (id_B % BLOCK_K)[:, None], second_BK, best_BK)
    second_B = tl.min(other_BK, axis=1)

    square_B = tl.zeros((BLOCK_B,), tl.float32)
    for start_e in range(0, width, BLOCK_E):
        ok_e = start_e + e < width
        x_BE = tl.load(latents_ptr + (start_e + e).to(tl.int64) * stride_xe, mask=ok_b[:, None] & ok_e, other=0.0).to(
            tl.float32
        )
        square_B += tl.sum(x_BE * x_BE, axis=1)
    # squares that underflowed add less than `lost` to a length
    longest = tl.sqrt(tl.max(longest_K, axis=0)) + lost
    reach_B = tl.sqrt(square_B) + lost + 0.5 * longest
    slack_B = relative * longest * reach_B + smallest
    if HAS_ERROR:
        slack_B += 2 * longest * tl.load(error_ptr + b * stride_rb + m * stride_rm, mask=ok_b, other=0.0)
    sure_B = (second_B - best_B > slack_B) & (longest * reach_B < 1e38) & (tl.abs(best_B) < 1e38)
    tl.store(ids_ptr + b * num_books + m, tl.where(sure_B, id_B, -1).to(tl.int64), mask=ok_b)


@triton.jit
def load_codewords(codebook_ptr, stride_ck, stride_ce, k, num_codes, width, BLOCK_E: tl.constexpr):
    e = tl.arange(0, BLOCK_E)
    ok_KE = (k < num_codes)[:, None] & (e < width)
    return tl.load(codebook_ptr + k[:, None] * stride_ck + e * stride_ce, mask=ok_KE, other=0.0).to(tl.float64)


@triton.jit
def decide(
    x_E, codebook_ptr, stride_ck, stride_ce, num_codes, width, relative, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr
):
    """The codeword nearest to an fp64 latent: by score, near ties by distance, then by lowest index; 0 if none is."""
    best = tl.full((), float("inf"), tl.float64)
    longest = tl.full((), 0.0, tl.float64)
    for start in range(0, num_codes, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        c_KE = load_codewords(codebook_ptr, stride_ck, stride_ce, k, num_codes, width, BLOCK_E)
        square_K = tl.sum(c_KE * c_KE, axis=1)
        score_K = tl.where(k < num_codes, 0.5 * square_K - tl.sum(c_KE * x_E, axis=1), float("inf"))
        best = tl.minimum(best, tl.min(score_K, axis=0))
        longest = tl.maximum(longest, tl.max(square_K, axis=0))
    longest = tl.sqrt(longest)
    limit = best + relative * 2.0**-29 * longest * (tl.sqrt(tl.sum(x_E * x_E, axis=0)) + 0.5 * longest)
    shortest = tl.full((), float("inf"), tl.float64)
    nearest = tl.full((), 0, tl.int32)
    for start in range(0, num_codes, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        c_KE = load_codewords(codebook_ptr, stride_ck, stride_ce, k, num_codes, width, BLOCK_E)
        close_K = 0.5 * tl.sum(c_KE * c_KE, axis=1) - tl.sum(c_KE * x_E, axis=1) <= limit
        distance_K = tl.sum((x_E - c_KE) * (x_E - c_KE), axis=1)
        distance_K = tl.where(close_K & (k < num_codes), distance_K, float("inf"))
        distance = tl.min(distance_K, axis=0)
        first = tl.min(tl.where(distance_K == distance, k, num_codes), axis=0)
        nearest = tl.where(distance < shortest, first, nearest)
        shortest = tl.where(distance < shortest, distance, shortest)
    return nearest


@triton.jit(do_not_specialize=["num_rows"])
def decide_and_mix_kernel(
    latents_ptr,
    codebooks_ptr,
    gate_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    ids_ptr,
    mixed_ptr,
    stride_xb,
    stride_xm,
    stride_xe,
    stride_cm,
    stride_ck,
    stride_ce,
    stride_gb,
    stride_gm,
    stride_hb,
    stride_hm,
    stride_hh,
    stride_wm,
    stride_we,
    stride_wh,
    stride_bm,
    stride_be,
    num_rows,
    num_books,
    num_codes,
    width,
    hidden_width,
    relative,
    HAS_GATE: tl.constexpr,
    PROJECTED: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Decides the ids that are -1, and writes the gated sum of the codewords in the order of the codebooks."""
    lane_b = tl.arange(0, BLOCK_B)
    start_b = tl.program_id(0).to(tl.int64) * BLOCK_B
    b = start_b + lane_b
    ok_b = b < num_rows
    e = tl.arange(0, BLOCK_E)
    ok_e = e < width
    ok_BE = ok_b[:, None] & ok_e
    mixed_BE = tl.zeros((BLOCK_B, BLOCK_E), tl.float32)
    for book in range(num_books):
        m = tl.cast(book, tl.int64)
        codebook_ptr = codebooks_ptr + m * stride_cm
        id_B = tl.load(ids_ptr + b * num_books + m, mask=ok_b, other=0).to(tl.int32)
        num_unsure = tl.sum((id_B < 0).to(tl.int32), axis=0)
        for _ in range(num_unsure):
            lane = tl.min(tl.where(id_B < 0, lane_b, BLOCK_B), axis=0)
            row = start_b + lane
            if PROJECTED:
                x_E = tl.load(bias_ptr + m * stride_bm + e * stride_be, mask=ok_e, other=0.0).to(tl.float64)
                for start_h in range(0, hidden_width, BLOCK_K):
                    h = start_h + tl.arange(0, BLOCK_K)
                    ok_h = h < hidden_width
                    h_ptr = hidden_ptr + row * stride_hb + m * stride_hm + h * stride_hh
                    h_H1 = tl.load(h_ptr, mask=ok_h, other=0.0).to(tl.float64)[:, None]
                    w_ptr = weight_ptr + m * stride_wm + h[:, None] * stride_wh + e * stride_we
                    w_HE = tl.load(w_ptr, mask=ok_h[:, None] & ok_e, other=0.0).to(tl.float64)
                    x_E += tl.sum(h_H1 * w_HE, axis=0)
            else:
                x_ptr = latents_ptr + row * stride_xb + m * stride_xm + e * stride_xe
                x_E = tl.load(x_ptr, mask=ok_e, other=0.0).to(tl.float64)
            nearest = decide(x_E, codebook_ptr, stride_ck, stride_ce, num_codes, width, relative, BLOCK_K, BLOCK_E)
            id_B = tl.where(lane_b == lane, nearest, id_B)
        if num_unsure > 0:
            tl.store(ids_ptr + b * num_books + m, id_B.to(tl.int64), mask=ok_b)
        c_ptr = codebook_ptr + id_B.to(tl.int64)[:, None] * stride_ck + e * stride_ce
        c_BE = tl.load(c_ptr, mask=ok_BE, other=0.0).to(tl.float32)
        if HAS_GATE:
            gate_B = tl.load(gate_ptr + b * stride_gb + m * stride_gm, mask=ok_b, other=0.0).to(tl.float32)
            c_BE *= gate_B[:, None]
        mixed_BE += c_BE
    tl.store(mixed_ptr + b[:, None] * width + e, cast(mixed_BE, mixed_ptr.dtype.element_ty, INTERPRETED), mask=ok_BE)


def objection(call: MpqQuantize) -> str | None:
    if call.latents_BME.dtype not in _DTYPES:
        return f"it computes float32, bfloat16 and float16 tensors, these are {call.latents_BME.dtype}"
    if call.codebooks_MKE.shape[2] > _MAX_WIDTH:
        return f"it computes codewords of up to {_MAX_WIDTH} dimensions, these have {call.codebooks_MKE.shape[2]}"
    return None


def run(call: MpqQuantize, projection: Projection | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE); with a projection, near-ties are decided by the latents that it gives in fp64."""
    latents_BME, codebooks_MKE, gate_BM = call
    num_rows, num_books, width = latents_BME.shape
    ids_BM, mixed_BE = empty_results(call)
    if num_rows == 0:
        return ids_BM, mixed_BE
    gate = gate_BM if gate_BM is not None else latents_BME[:, :, 0]
    error_BM, hidden_BMH, weight_MEH, bias_ME = projection or (gate, latents_BME, codebooks_MKE, codebooks_MKE[:, 0])
    search, mix = search_tiles(latents_BME.dtype, width), mix_tiles(width)
    with on_device(latents_BME):
        nearest_codes_kernel[(triton.cdiv(num_rows, search["BLOCK_B"]), num_books)](
            *(latents_BME, codebooks_MKE, error_BM, ids_BM),
            *(*latents_BME.stride(), *codebooks_MKE.stride(), *error_BM.stride()),
            *(num_rows, num_books, codebooks_MKE.shape[1], width),
            *slack_terms(width),
            HAS_ERROR=projection is not None,
            INTERPRETED=interpreted(),
            **search,
        )
        decide_and_mix_kernel[(triton.cdiv(num_rows, mix["BLOCK_B"]),)](
            *(latents_BME, codebooks_MKE, gate, hidden_BMH, weight_MEH, bias_ME, ids_BM, mixed_BE),
            *(*latents_BME.stride(), *codebooks_MKE.stride(), *gate.stride()),
            *(*hidden_BMH.stride(), *weight_MEH.stride(), *bias_ME.stride()),
            *(num_rows, num_books, codebooks_MKE.shape[1], width, hidden_BMH.shape[2], slack_terms(width)[0]),
            HAS_GATE=gate_BM is not None,
            PROJECTED=projection is not None,
            INTERPRETED=interpreted(),
            **mix,
        )
    return ids_BM, mixed_BE


def slack_terms(width: int) -> tuple[float, float, float]:
    """(relative, lost, smallest): how far rounding and underflow may change the difference of two scores.

    Matrix units truncate where float32 rounds, so the relative error is twice that of the eager definition.
    """
    return 4 * (width + 4) * 2.0**-23, width**0.5 * 2.0**-62, (width + 4) * 2.0**-124


def search_tiles(dtype: torch.dtype, width: int) -> dict[str, int]:
    """float32 products do not run on matrix units, so their operands must fit in registers."""
    block_e = 16 if dtype == torch.float32 else min(max(triton.next_power_of_2(width), 16), 64)
    return {"BLOCK_B": 64, "BLOCK_K": 64, "BLOCK_E": block_e, "num_warps": 8}


def mix_tiles(width: int) -> dict[str, int]:
    """A codeword fits in one tile; maxnreg keeps ptxas from spilling in order to use fewer registers."""
    block_e = max(triton.next_power_of_2(width), 16)
    tiles = {"BLOCK_B": min(2048 // block_e, 32), "BLOCK_K": 2048 // block_e, "BLOCK_E": block_e}
    return tiles | {"num_warps": 4, "maxnreg": 248}
