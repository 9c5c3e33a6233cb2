"""`js_divergence` in Triton: one program per row, three passes over tiles of classes; fp64 near the threshold."""

import contextlib

import torch
import triton
import triton.language as tl

from ..machine import interpreted
from .reference import NEAR, JsDivergence, empty_results

__all__ = ["js_divergence_kernel", "objection", "run", "tile"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def softmax_parts(logits_ptr, stride_c, num_classes, BLOCK_C: tl.constexpr, DTYPE: tl.constexpr):
    """(maximum, sum of exponentials) of one row; the sum is NaN if the row has a NaN or its maximum is infinite."""
    largest = tl.full((), float("-inf"), tl.float32)
    for start in range(0, num_classes, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        x = tl.load(logits_ptr + c * stride_c, mask=c < num_classes, other=float("-inf"))
        largest = tl.maximum(largest, tl.max(x.to(tl.float32), axis=0))
    largest = largest.to(DTYPE)
    total = tl.zeros((BLOCK_C,), DTYPE)
    for start in range(0, num_classes, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        x = tl.load(logits_ptr + c * stride_c, mask=c < num_classes, other=float("-inf"))
        total += tl.where(c < num_classes, tl.exp(x.to(DTYPE) - largest), 0.0)
    return largest, tl.sum(total, axis=0)


@triton.jit
def side(t):
    """(1 + t) ln(1 + t); the second term of ln corrects the rounding of 1 + t."""
    a = 1.0 + t
    safe = tl.where(a > 0, a, 1.0)
    return tl.where(a > 0, a * (tl.log(safe) - ((safe - 1.0) - t) / safe), tl.where(a == 0, 0.0, a))


@triton.jit
def divergence(p_ptr, q_ptr, stride_pc, stride_qc, num_classes, BLOCK_C: tl.constexpr, DTYPE: tl.constexpr):
    p_largest, p_sum = softmax_parts(p_ptr, stride_pc, num_classes, BLOCK_C, DTYPE)
    q_largest, q_sum = softmax_parts(q_ptr, stride_qc, num_classes, BLOCK_C, DTYPE)
    total = tl.zeros((BLOCK_C,), DTYPE)
    for start in range(0, num_classes, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        ok_c = c < num_classes
        p = tl.exp(tl.load(p_ptr + c * stride_pc, mask=ok_c, other=float("-inf")).to(DTYPE) - p_largest) / p_sum
        q = tl.exp(tl.load(q_ptr + c * stride_qc, mask=ok_c, other=float("-inf")).to(DTYPE) - q_largest) / q_sum
        s = p + q
        t = tl.where(s == 0, 0.0, (p - q) / tl.where(s == 0, 1.0, s))
        both = side(t) + side(-t)
        total += tl.where(ok_c, s * tl.where(both < 0, 0.0, both), 0.0)
    return 0.25 * tl.sum(total, axis=0)


@triton.jit
def js_divergence_kernel(
    p_ptr,
    q_ptr,
    js_ptr,
    keep_ptr,
    stride_pn,
    stride_pc,
    stride_qn,
    stride_qc,
    num_classes,
    threshold: tl.float64,
    near: tl.float64,
    HAS_THRESHOLD: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    p_ptr += n * stride_pn
    q_ptr += n * stride_qn
    js = divergence(p_ptr, q_ptr, stride_pc, stride_qc, num_classes, BLOCK_C, tl.float32)
    tl.store(js_ptr + n, js)
    if HAS_THRESHOLD:
        decided = js.to(tl.float64)
        if tl.abs(decided - threshold) < near:
            decided = divergence(p_ptr, q_ptr, stride_pc, stride_qc, num_classes, BLOCK_C, tl.float64)
        tl.store(keep_ptr + n, decided <= threshold)


def objection(call: JsDivergence) -> str | None:
    if call.p_logits_TC.dtype not in _DTYPES:
        return f"it computes float32, bfloat16 and float16 logits, these are {call.p_logits_TC.dtype}"
    return None


def run(call: JsDivergence) -> tuple[torch.Tensor, torch.Tensor]:
    p_logits_TC, q_logits_TC, threshold = call
    num_rows, num_classes = p_logits_TC.shape
    js_T, keep_T = empty_results(call)
    if num_rows == 0:
        return js_T, keep_T
    with contextlib.nullcontext() if interpreted() else torch.cuda.device(p_logits_TC.device):
        js_divergence_kernel[(num_rows,)](
            p_logits_TC,
            q_logits_TC,
            js_T,
            keep_T,
            *p_logits_TC.stride(),
            *q_logits_TC.stride(),
            num_classes,
            0.0 if threshold is None else threshold,
            NEAR,
            HAS_THRESHOLD=threshold is not None,
            BLOCK_C=tile(num_classes),
        )
    return js_T, keep_T


def tile(num_classes: int) -> int:
    """Classes per tile: one tile for a short row, else tiles that fit in registers."""
    return min(triton.next_power_of_2(num_classes), 1024)
