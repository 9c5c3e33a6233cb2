"""Numbers in attention and norms beyond bounds become NaN: what would overflow depends on the order of sums."""

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
    """ValueError where a weight on the CPU is not finite, or as large as `MOST_WEIGHT`; looks once at each tensor.

    In bfloat16 they are not looked at, since biases stand between them in another format.
    """
    if torch.compiler.is_compiling() or _checked.has((weights,)) or not has_values(weights):
        return
    if not weights.is_cpu or weights.dtype == torch.bfloat16:
        return
    if not bool((weights.abs() < MOST_WEIGHT).all()):
        raise ValueError(f"{op}: weights_Y must be finite and below {MOST_WEIGHT:g} in magnitude; look at the model")
    _checked.add((weights,))


def bounded(x: Tensor) -> Tensor:
    """x, with NaN for each number that is not finite, or as large as `MOST`."""
    return torch.where(x.abs() < MOST, x, torch.nan)


def bounded_norm(x: Tensor, norm: Affine) -> Tensor:
    """The layer norm of rows; NaN for those whose mean square is not in bounds."""
    size = x.square().mean(-1, keepdim=True).sqrt()
    return torch.where(size < MOST, F.layer_norm(x, x.shape[-1:], *norm), torch.nan)
