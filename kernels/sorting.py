"""Flat tensors in order of several keys, equal ones as they stand."""

import torch
from torch import Tensor

__all__ = ["first_of_each", "lexsort"]


def lexsort(*keys_T: Tensor) -> Tensor:
    """Places in ascending order of the last key, equal ones of the one before it, and so on; then as they stand."""
    order = torch.arange(len(keys_T[0]), device=keys_T[0].device)
    for key_T in keys_T:
        order = order[key_T[order].sort(stable=True).indices]
    return order


def first_of_each(key_T: Tensor, *values_T: Tensor) -> list[Tensor]:
    """The values at the first place of every key, by key."""
    sorted_T, order = key_T.sort(stable=True)
    first = order[torch.nn.functional.pad(sorted_T[1:] != sorted_T[:-1], (1, 0), value=True)[: len(key_T)]]
    return [value_T[first] for value_T in values_T]
