"""What Triton kernels share: products and casts that are also right in the interpreter."""

import contextlib
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl

from .machine import interpreted

__all__ = ["cast", "dot", "on_device"]


@triton.jit
def dot(a, b, INTERPRETED: tl.constexpr):
    """a @ b, accumulated in fp32; converted first in the interpreter, which multiplies bf16 as integers."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def cast(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """fp32 to DTYPE, to nearest even; rounded here in the interpreter, whose casts to bf16 and fp8 truncate."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    elif INTERPRETED and tl.float8e4nv == DTYPE:
        x = round_to(x, 3, -6)
    elif INTERPRETED and tl.float8e5 == DTYPE:
        x = round_to(x, 2, -14)
    return x.to(DTYPE)


@triton.jit
def round_to(x, NUM_BITS: tl.constexpr, LOWEST: tl.constexpr):
    """fp32 rounded to NUM_BITS bits after the leading one; numbers below 2 ** LOWEST have the step at 2 ** LOWEST."""
    power = (x.to(tl.uint32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    shift = tl.maximum(power, 2.0**LOWEST) * (1.5 * 2.0 ** (23 - NUM_BITS))
    return (x + shift) - shift


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """A context in which kernels are launched on the tensor's device."""
    return contextlib.nullcontext() if interpreted() else torch.cuda.device(tensor.device)
