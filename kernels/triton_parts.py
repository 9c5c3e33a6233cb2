"""What Triton kernels share: products and casts that the interpreter computes right."""

import contextlib
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl

from .machine import interpreted

__all__ = ["cast", "dot", "on_device"]


@triton.jit
def dot(a, b, INTERPRETED: tl.constexpr):
    """a @ b, accumulated in fp32; the interpreter multiplies bf16 as if it were an integer."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def cast(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """fp32 to DTYPE, to nearest even; the interpreter truncates to bf16."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Kernels are launched on the device of the tensor."""
    return contextlib.nullcontext() if interpreted() else torch.cuda.device(tensor.device)
