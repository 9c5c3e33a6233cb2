"""Numbers of transformer layers beyond bounds become NaN: what would overflow depends on the order of sums."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .panels import Affine

__all__ = ["bounded", "bounded_norm"]

MOST = 1e15
"""kMost in csrc/simd.h."""


def bounded(x: Tensor) -> Tensor:
    """x, with NaN for each number that is not finite, or as large as `MOST`."""
    return torch.where(x.abs() < MOST, x, torch.nan)


def bounded_norm(x: Tensor, norm: Affine) -> Tensor:
    """The layer norm of rows; NaN for those whose deviation is not in bounds."""
    deviation = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    return torch.where(deviation < MOST, F.layer_norm(x, x.shape[-1:], *norm), torch.nan)
