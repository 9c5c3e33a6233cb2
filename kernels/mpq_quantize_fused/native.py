"""`mpq_quantize_fused` on the CPU: torch projects, then the search of `mpq_quantize` in C++."""

from functools import partial

from ..mpq_quantize.native import objection, quantize
from .reference import quantize_projected

__all__ = ["objection", "run"]

run = partial(quantize_projected, quantize)
