"""The gradients of `token_cross_entropy` in Triton: each product recomputes the logits, tile by tile."""

import torch
import triton
import triton.language as tl

from ..machine import interpreted
from ..triton_parts import cast, dot, on_device
from .reference import TokenCrossEntropyBackward
from .triton_kernel import objection as _objection
from .triton_kernel import product, rows_by_pattern

__all__ = ["backward_tiles", "hidden_grad_kernel", "objection", "run", "weight_grad_kernel"]

_PROGRAMS = 256
"""Programs that fill a GPU; if a weight has fewer tiles, each is summed in several parts of the rows to get as many."""


@triton.jit
def logit_grad(logits, lse, share, ok, right, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """share x (probability, minus 1 at the id), in the dtype of the products."""
    probability = tl.where(ok, tl.exp(logits - lse), 0.0)
    return cast(share * (probability - right.to(tl.float32)), DTYPE, INTERPRETED)


@triton.jit(do_not_specialize=["num_rows"])
def hidden_grad_kernel(
    share_ptr,
    hidden_ptr,
    weight_ptr,
    ids_ptr,
    open_ptr,
    among_ptr,
    lse_ptr,
    order_ptr,
    grad_ptr,
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
    stride_lt,
    stride_lm,
    num_rows,
    num_books,
    num_codes,
    width,
    HAS_AMONG: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """A tile of rows and of dimensions g of hidden_grad_TD, summed over the codebooks in order."""
    lane_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    ok_t = lane_t < num_rows
    t = tl.load(order_ptr + lane_t, mask=ok_t, other=0)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    h_ptr = hidden_ptr + t * stride_ht
    share_T = tl.load(share_ptr + t, mask=ok_t, other=0.0)
    grad_TD = tl.zeros((BLOCK_T, BLOCK_G), tl.float32)
    for book in range(num_books):
        m = tl.cast(book, tl.int64)
        open_T = tl.load(open_ptr + t * stride_ot + m * stride_om, mask=ok_t, other=0) != 0
        if tl.max(open_T.to(tl.int32), axis=0) > 0:
            id_T = tl.load(ids_ptr + t * stride_it + m * stride_im, mask=open_T, other=-1)
            lse_T = tl.load(lse_ptr + t * stride_lt + m * stride_lm, mask=open_T, other=0.0)
            for start in range(0, num_codes, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                ok_k = k < num_codes
                w_ptr = weight_ptr + m * stride_wm + k * stride_wk
                logits_TK = product(
                    h_ptr, w_ptr, stride_hd, stride_wd, open_T, ok_k, width, INTERPRETED, BLOCK_T, BLOCK_K, BLOCK_D
                )
                ok_TK = open_T[:, None] & ok_k
                if HAS_AMONG:
                    a_ptr = among_ptr + t[:, None] * stride_at + m * stride_am + k * stride_ak
                    ok_TK &= tl.load(a_ptr, mask=ok_TK, other=0) != 0
                w_KD = tl.load(w_ptr[:, None] + g * stride_wd, mask=ok_k[:, None] & (g < width), other=0.0)
                right_TK = k == id_T[:, None]
                p_TK = logit_grad(logits_TK, lse_T[:, None], share_T[:, None], ok_TK, right_TK, w_KD.dtype, INTERPRETED)
                grad_TD += dot(p_TK, w_KD, INTERPRETED)
    grad_TD = cast(grad_TD, grad_ptr.dtype.element_ty, INTERPRETED)
    tl.store(grad_ptr + t[:, None] * width + g, grad_TD, mask=ok_t[:, None] & (g < width))


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def weight_grad_kernel(
    share_ptr,
    hidden_ptr,
    weight_ptr,
    ids_ptr,
    open_ptr,
    among_ptr,
    lse_ptr,
    order_ptr,
    parts_ptr,
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
    stride_lt,
    stride_lm,
    num_rows,
    num_books,
    num_codes,
    width,
    num_parts,
    HAS_AMONG: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """A tile of codes and of dimensions g of a codebook's gradient, summed over every num_parts-th tile of rows."""
    num_tiles_k = tl.cdiv(num_codes, BLOCK_K)
    k = tl.program_id(0) % num_tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    ok_k = k < num_codes
    m = (tl.program_id(0) // num_tiles_k).to(tl.int64)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    part = tl.program_id(2).to(tl.int64)
    w_ptr = weight_ptr + m * stride_wm + k * stride_wk
    grad_KD = tl.zeros((BLOCK_K, BLOCK_G), tl.float32)
    for tile in range(tl.program_id(2), tl.cdiv(num_rows, BLOCK_T), num_parts):
        lane_t = tl.cast(tile, tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
        t = tl.load(order_ptr + lane_t, mask=lane_t < num_rows, other=0)
        open_T = tl.load(open_ptr + t * stride_ot + m * stride_om, mask=lane_t < num_rows, other=0) != 0
        if tl.max(open_T.to(tl.int32), axis=0) > 0:
            share_T = tl.load(share_ptr + t, mask=open_T, other=0.0)
            id_T = tl.load(ids_ptr + t * stride_it + m * stride_im, mask=open_T, other=-1)
            lse_T = tl.load(lse_ptr + t * stride_lt + m * stride_lm, mask=open_T, other=0.0)
            h_ptr = hidden_ptr + t * stride_ht
            logits_KT = product(
                w_ptr, h_ptr, stride_wd, stride_hd, ok_k, open_T, width, INTERPRETED, BLOCK_K, BLOCK_T, BLOCK_D
            )
            ok_KT = ok_k[:, None] & open_T
            if HAS_AMONG:
                a_ptr = among_ptr + t * stride_at + m * stride_am + k[:, None] * stride_ak
                ok_KT &= tl.load(a_ptr, mask=ok_KT, other=0) != 0
            h_TD = tl.load(h_ptr[:, None] + g * stride_hd, mask=open_T[:, None] & (g < width), other=0.0)
            p_KT = logit_grad(logits_KT, lse_T, share_T, ok_KT, k[:, None] == id_T, h_TD.dtype, INTERPRETED)
            grad_KD += dot(p_KT, h_TD, INTERPRETED)
    to_ptr = parts_ptr + ((part * num_books + m) * num_codes + k[:, None]) * width + g
    tl.store(to_ptr, grad_KD, mask=ok_k[:, None] & (g < width))


def objection(call: TokenCrossEntropyBackward) -> str | None:
    return _objection(call.forward)


def run(call: TokenCrossEntropyBackward) -> tuple[torch.Tensor, torch.Tensor]:
    grad_T, (hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK), lse_TM = call
    num_rows, (num_books, num_codes, width) = len(hidden_TD), weight_MKD.shape
    of_hidden, of_weight = backward_tiles(hidden_TD.dtype, width)
    tiles_g = triton.cdiv(width, of_hidden["BLOCK_G"])
    tiles_k = num_books * triton.cdiv(num_codes, of_weight["BLOCK_K"])
    num_parts = triton.cdiv(num_rows, of_weight["BLOCK_T"])
    num_parts = max(1, min(num_parts, _PROGRAMS // max(1, tiles_k * tiles_g)))
    hidden_grad_TD = torch.empty(num_rows, width, dtype=hidden_TD.dtype, device=hidden_TD.device)
    parts_XMKD = torch.empty(num_parts, *weight_MKD.shape, dtype=torch.float32, device=hidden_TD.device)
    among = open_TM.unsqueeze(2) if among_TMK is None else among_TMK
    share_T = grad_T / open_TM.sum(1).clamp_min(1)
    tensors = (share_T, hidden_TD, weight_MKD, ids_TM, open_TM, among, lse_TM, rows_by_pattern(open_TM))
    strides = tuple(stride for tensor in tensors[1:7] for stride in tensor.stride())
    sizes = (num_rows, num_books, num_codes, width)
    flags = {"HAS_AMONG": among_TMK is not None, "INTERPRETED": interpreted()}
    with on_device(hidden_TD):
        hidden_grad_kernel[(triton.cdiv(num_rows, of_hidden["BLOCK_T"]), tiles_g)](
            *tensors, hidden_grad_TD, *strides, *sizes, **flags, **of_hidden
        )
        weight_grad_kernel[(tiles_k, tiles_g, num_parts)](
            *tensors, parts_XMKD, *strides, *sizes, num_parts, **flags, **of_weight
        )
    return hidden_grad_TD, parts_XMKD.sum(0).to(weight_MKD.dtype)


def backward_tiles(dtype: torch.dtype, width: int) -> tuple[dict[str, int], dict[str, int]]:
    """Tiles for the gradients of (hidden, weight): long along the axis that remains, short along the summed one.

    maxnreg keeps ptxas from spilling in order to use fewer registers.
    """
    block_g, block_d = (64, 16) if dtype == torch.float32 else (256, 32)
    block_g = min(max(triton.next_power_of_2(width), 16), block_g)
    tiles = {"BLOCK_D": min(block_d, block_g), "BLOCK_G": block_g, "num_warps": 8, "maxnreg": 248}
    return {"BLOCK_T": 64, "BLOCK_K": 32, **tiles}, {"BLOCK_T": 32, "BLOCK_K": 64, **tiles}
