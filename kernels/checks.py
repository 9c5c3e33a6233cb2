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
            _check_dtype(op, name, tensor, dtypes)
            if group is floats:
                shared = shared or tensor.dtype
                if tensor.dtype != shared:
                    raise ValueError(f"{op}: {name} is {tensor.dtype} beside {shared}; convert one of them")
            device = device or tensor.device
            if tensor.device != device:
                raise ValueError(f"{op}: {name} is on {tensor.device} beside tensors on {device}")
            _bind_shape(op, name, tensor, sizes)
    return sizes


def _check_dtype(op: str, name: str, tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{op}: {name} must be a tensor, found {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(str, dtypes))}, found {tensor.dtype}")


@functools.cache
def _letters(name: str) -> str:
    return name.rpartition("_")[2]


def _bind_shape(op: str, name: str, tensor: torch.Tensor, sizes: dict[str, int]) -> None:
    letters, shape = _letters(name), tensor.shape
    if len(shape) != len(letters):
        raise ValueError(f"{op}: {name} must have {len(letters)} axes ({letters}), found shape {tuple(shape)}")
    for letter, size in zip(letters, shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(f"{op}: {name} has shape {tuple(shape)} where {letter} = {sizes[letter]} was expected")
