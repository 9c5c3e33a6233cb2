"""Sums in a fixed order, which have the same bits on every backend."""

import torch
from torch import Tensor

__all__ = ["exact_dot", "folded_sum"]


def folded_sum(terms: Tensor) -> Tensor:
    """The sum over the last axis, padded with zeros to a power of 2: adds the second half to the first, and so on."""
    width = 1 << max(terms.shape[-1] - 1, 0).bit_length()
    terms = torch.nn.functional.pad(terms, (0, width - terms.shape[-1]))
    while width > 1:
        width //= 2
        terms = terms[..., :width] + terms[..., width:]
    return terms[..., 0]


def exact_dot(a_TD: Tensor, b_TD: Tensor) -> Tensor:
    """Inner products (T,) in float64, where products of float32 are exact, summed by `folded_sum`."""
    return folded_sum(a_TD.double() * b_TD.double())
