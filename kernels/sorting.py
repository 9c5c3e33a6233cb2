"""Stable sorting of flat tensors by several keys."""

import torch
from torch import Tensor

__all__ = ["first_of_each", "lexsort"]


def lexsort(*keys_T: Tensor) -> Tensor:
    """The indices that sort by the last key, then by the one before it, and so on; equal entries keep their order."""
    order = torch.arange(len(keys_T[0]), device=keys_T[0].device)
    for key_T in keys_T:
        order = order[key_T[order].sort(stable=True).indices]
    return order


def first_of_each(key_T: Tensor, *values_T: Tensor) -> list[Tensor]:
    """The values at the first place of every distinct key, in the order of the keys."""
    sorted_T, order = key_T.sort(stable=True)
    first = order[torch.nn.functional.pad(sorted_T[1:] != sorted_T[:-1], (1, 0), value=True)[: len(key_T)]]
    return [value_T[first] for value_T in values_T]
