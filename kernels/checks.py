"""Checks of dtype, device and shape that every op makes on every call; values are checked where data is loaded."""

import functools
from collections.abc import Mapping

import torch

__all__ = ["FLOATS", "INTEGERS", "bind"]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16)

Tensors = Mapping[str, torch.Tensor | None]


def bind(
    op: str,
    floats: Tensors,
    integers: Tensors | None = None,
    bools: Tensors | None = None,
    *,
    float_dtypes: tuple[torch.dtype, ...] = FLOATS,
    integer_dtypes: tuple[torch.dtype, ...] = INTEGERS,
    sizes: dict[str, int] | None = None,
    device: torch.device | None = None,
) -> dict[str, int]:
    """The size of each letter in the names' suffixes (`ids_IM`); tensors that are None are left out.

    `sizes` and `device` continue an earlier call. ValueError when a dtype is not one of its group, when the
    floating-point tensors differ in dtype, when devices differ, or when a shape does not fit its suffix.
    """
    sizes = {} if sizes is None else sizes
    shared: torch.dtype | None = None
    for group, dtypes in ((floats, float_dtypes), (integers, integer_dtypes), (bools, (torch.bool,))):
        for name, tensor in (group or {}).items():
            if tensor is None:
                continue
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{op}: {name} must be a tensor, found {type(tensor).__name__}")
            dtype, place, shape, letters = tensor.dtype, tensor.device, tensor.shape, _letters(name)
            if dtype not in dtypes:
                raise ValueError(f"{op}: {name} must be one of {', '.join(map(str, dtypes))}, found {dtype}")
            if group is floats:
                shared = shared or dtype
                if dtype is not shared:
                    raise ValueError(f"{op}: {name} is {dtype} beside {shared}; convert one of them")
            device = device or place
            if place != device:
                raise ValueError(f"{op}: {name} is on {place} beside tensors on {device}")
            if len(shape) != len(letters):
                raise ValueError(f"{op}: {name} must have {len(letters)} axes ({letters}), found shape {tuple(shape)}")
            for letter, size in zip(letters, shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    wanted = f"{letter} = {sizes[letter]} was expected"
                    raise ValueError(f"{op}: {name} has shape {tuple(shape)} where {wanted}")
    return sizes


@functools.cache
def _letters(name: str) -> str:
    return name.rpartition("_")[2]
