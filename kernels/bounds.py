"""Bounds on numbers in attention and norms. Beyond them results are NaN, since overflow depends on a sum's order."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import Checked, has_values
from .panels import Affine

__all__ = ["bounded", "bounded_norm", "check_weights"]

MOST = 1e15
"""kMost in csrc/simd.h."""
MOST_WEIGHT = 1e6

_checked = Checked()


def check_weights(op: str, weights: Tensor) -> None:
    """ValueError if a weight on the CPU is not finite or is `MOST_WEIGHT` or more in magnitude; checks a tensor once.

    bfloat16 weights are not checked: biases are stored among them as the bits of float32 numbers.
    """
    if torch.compiler.is_compiling() or _checked.has((weights,)) or not has_values(weights):
        return
    if not weights.is_cpu or weights.dtype == torch.bfloat16:
        return
    if not bool((weights.abs() < MOST_WEIGHT).all()):
        raise ValueError(f"{op}: weights_Y must be finite and below {MOST_WEIGHT:g} in magnitude; look at the model")
    _checked.add((weights,))


def bounded(x: Tensor) -> Tensor:
    """x, with NaN for each number that is not finite or is `MOST` or more in magnitude."""
    return torch.where(x.abs() < MOST, x, torch.nan)


def bounded_norm(x: Tensor, norm: Affine) -> Tensor:
    """The layer norm of each row; NaN if the row's root mean square is not below `MOST`."""
    size = x.square().mean(-1, keepdim=True).sqrt()
    return torch.where(size < MOST, F.layer_norm(x, x.shape[-1:], *norm), torch.nan)
