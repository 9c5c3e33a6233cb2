"""`token_cross_entropy` in Triton: rows open in the same codebooks share tiles, and closed tiles are skipped."""

import torch
import triton
import triton.language as tl

from ..machine import interpreted
from ..triton_parts import dot, on_device
from .reference import TokenCrossEntropy

__all__ = ["forward_tiles", "objection", "product", "rows_by_pattern", "run", "token_cross_entropy_kernel"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def product(
    a_ptr,
    b_ptr,
    stride_ad,
    stride_bd,
    ok_a,
    ok_b,
    width,
    INTERPRETED: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """a_TD @ b_KD.T, with a pointer to each row."""
    product_TK = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        ok_d = d < width
        a_TD = tl.load(a_ptr[:, None] + d * stride_ad, mask=ok_a[:, None] & ok_d, other=0.0)
        b_DK = tl.load(b_ptr + d[:, None] * stride_bd, mask=ok_d[:, None] & ok_b, other=0.0)
        product_TK += dot(a_TD, b_DK, INTERPRETED)
    return product_TK


@triton.jit(do_not_specialize=["num_rows"])
def token_cross_entropy_kernel(
    hidden_ptr,
    weight_ptr,
    ids_ptr,
    open_ptr,
    among_ptr,
    order_ptr,
    loss_ptr,
    lse_ptr,
    stride_ht,
    stride_hd,
    stride_wm,
    stride_wk,
    stride_wd,
    stride_it,
    stride_im,
    stride_ot,
    stride_om,
    stride_at,
    stride_am,
    stride_ak,
    num_rows,
    num_books,
    num_codes,
    width,
    HAS_AMONG: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """loss_TM and lse_TM of a tile of rows in one codebook, 0 where it is closed."""
    lane_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    m = tl.program_id(1).to(tl.int64)
    t = tl.load(order_ptr + lane_t, mask=lane_t < num_rows, other=0)
    open_T = tl.load(open_ptr + t * stride_ot + m * stride_om, mask=lane_t < num_rows, other=0) != 0
    id_T = tl.load(ids_ptr + t * stride_it + m * stride_im, mask=open_T, other=-1)
    largest_T = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    sum_T = tl.zeros((BLOCK_T,), tl.float32)
    shift_T = tl.zeros((BLOCK_T,), tl.float32)
    right_T = tl.zeros((BLOCK_T,), tl.float32)
    if tl.max(open_T.to(tl.int32), axis=0) > 0:
        h_ptr = hidden_ptr + t * stride_ht
        for start in range(0, num_codes, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            w_ptr = weight_ptr + m * stride_wm + k * stride_wk
            logits_TK = product(
                h_ptr, w_ptr, stride_hd, stride_wd, open_T, k < num_codes, width, INTERPRETED, BLOCK_T, BLOCK_K, BLOCK_D
            )
            ok_TK = open_T[:, None] & (k < num_codes)
            if HAS_AMONG:
                a_ptr = among_ptr + t[:, None] * stride_at + m * stride_am + k * stride_ak
                ok_TK &= tl.load(a_ptr, mask=ok_TK, other=0) != 0
            logits_TK = tl.where(ok_TK, logits_TK, float("-inf"))
            right_T += tl.sum(tl.where(k == id_T[:, None], logits_TK, 0.0), axis=1)
            before_T = largest_T
            largest_T = tl.maximum(largest_T, tl.max(logits_TK, axis=1))
            shift_T = tl.where(tl.abs(largest_T) == float("inf"), 0.0, largest_T)
            sum_T = sum_T * tl.exp(before_T - shift_T) + tl.sum(tl.exp(logits_TK - shift_T[:, None]), axis=1)
    lse_T = tl.where(open_T, shift_T + tl.log(tl.where(open_T, sum_T, 1.0)), 0.0)
    pair = t * num_books + m
    tl.store(lse_ptr + pair, lse_T, mask=lane_t < num_rows)
    tl.store(loss_ptr + pair, lse_T - right_T, mask=lane_t < num_rows)


def objection(call: TokenCrossEntropy) -> str | None:
    if call.hidden_TD.dtype not in _DTYPES:
        return f"it computes float32, bfloat16 and float16 tensors, these are {call.hidden_TD.dtype}"
    return None


def run(call: TokenCrossEntropy) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = call
    (num_rows, num_books), (_, num_codes, width) = open_TM.shape, weight_MKD.shape
    loss_TM = torch.empty(num_rows, num_books, dtype=torch.float32, device=hidden_TD.device)
    lse_TM = torch.empty_like(loss_TM)
    among = open_TM.unsqueeze(2) if among_TMK is None else among_TMK
    tiles = forward_tiles(hidden_TD.dtype)
    with on_device(hidden_TD):
        token_cross_entropy_kernel[(triton.cdiv(num_rows, tiles["BLOCK_T"]), num_books)](
            *(hidden_TD, weight_MKD, ids_TM, open_TM, among, rows_by_pattern(open_TM), loss_TM, lse_TM),
            *(*hidden_TD.stride(), *weight_MKD.stride(), *ids_TM.stride(), *open_TM.stride(), *among.stride()),
            *(num_rows, num_books, num_codes, width),
            HAS_AMONG=among_TMK is not None,
            INTERPRETED=interpreted(),
            **tiles,
        )
    return loss_TM.sum(1) / open_TM.sum(1).clamp_min(1), lse_TM


def rows_by_pattern(open_TM: torch.Tensor) -> torch.Tensor:
    """An order of the rows in which those with the same open codebooks are adjacent."""
    bit_M = torch.arange(open_TM.shape[1], device=open_TM.device) % 63
    return (open_TM << bit_M).sum(1).argsort(stable=True)


def forward_tiles(dtype: torch.dtype) -> dict[str, int]:
    """float32 products do not run on matrix units, so their operands must fit in registers.

    With a third pipeline stage triton 3.6 runs out of registers on sm_80.
    """
    if dtype == torch.float32:
        return {"BLOCK_T": 32, "BLOCK_K": 64, "BLOCK_D": 16, "num_warps": 4, "num_stages": 2}
    return {"BLOCK_T": 64, "BLOCK_K": 128, "BLOCK_D": 64, "num_warps": 8}
