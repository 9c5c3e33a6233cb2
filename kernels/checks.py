"""What every op checks on every call: dtype, device and shape, and on the CPU the integers that it uses as indices."""

import functools
import operator
import weakref
from collections.abc import Mapping, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

__all__ = [
    "FLOATS",
    "INTEGERS",
    "Checked",
    "NegativeBitError",
    "bind",
    "check_count",
    "has_values",
    "within",
    "within_once",
]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16)


class NegativeBitError(ValueError):
    """The argument `name` has torch's negative bit: memory holds its numbers negated, as for `z.conj().imag`."""

    def __init__(self, op: str, name: str):
        super().__init__(f"{op}: {name} has torch's negative bit; pass {name}.resolve_neg()")
        self.name = name


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
    """The size of each letter in the names' suffixes (`ids_IM`); tensors that are None are skipped.

    `sizes` and `device` are those of an earlier call, which this one must agree with. ValueError if a tensor has no
    strides (sparse and other layouts), if a dtype is not one of its group, if floating-point tensors differ in dtype,
    if devices differ, or if a shape does not fit its suffix.
    """
    sizes, compiles = {} if sizes is None else sizes, torch.compiler.is_compiling()
    shared: torch.dtype | None = None
    for group, dtypes in ((floats, float_dtypes), (integers, integer_dtypes), (bools, (torch.bool,))):
        for name, tensor in (group or {}).items():
            if tensor is None:
                continue
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{op}: {name} must be a tensor, found {type(tensor).__name__}")
            if tensor.layout is not torch.strided:
                raise ValueError(f"{op}: {name} must be a strided tensor, found {tensor.layout}; call to_dense() on it")
            if not compiles and tensor.is_neg():
                raise NegativeBitError(op, name)
            dtype, place, shape, letters = tensor.dtype, tensor.device, tensor.shape, _letters(name)
            if dtype not in dtypes:
                raise ValueError(f"{op}: {name} must be one of {', '.join(map(str, dtypes))}, found {dtype}")
            if group is floats:
                shared = shared or dtype
                if dtype is not shared:
                    raise ValueError(f"{op}: {name} is {dtype}, other tensors are {shared}; convert one of them")
            device = device or place
            if place != device:
                raise ValueError(f"{op}: {name} is on {place}, other tensors are on {device}")
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


def check_count(op: str, name: str, count: int, least: int) -> None:
    """ValueError if `count` is below `least` or needs more than 31 bits."""
    if count < least or count >= 2**31:
        raise ValueError(f"{op}: {name} must lie in {least}..{2**31 - 1}, found {count}")


def has_values(tensor: torch.Tensor) -> bool:
    """Whether the tensor holds numbers; a compiler passes tensors that have shapes alone."""
    return not (torch.compiler.is_compiling() or isinstance(tensor, FakeTensor))


def within(op: str, name: str, tensor: torch.Tensor | None, low: int, high: int) -> None:
    """ValueError if a tensor on the CPU holds an integer outside low..high.

    A tensor on a GPU is not read, since that would wait for the GPU. C++ checks its arguments itself (csrc/ranges.h).
    """
    if tensor is None or not tensor.is_cpu or not tensor.numel():
        return
    least, most = int(tensor.min()), int(tensor.max())
    if least < low or most > high:
        raise ValueError(f"{op}: {name} must lie in {low}..{high}, found {least}..{most}")


def within_once(op: str, name: str, codes: torch.Tensor, high: int) -> None:
    """`within` 0..high for the codes of a whole catalog; codes that passed are read again only after a write."""
    if not codes.is_cpu or _codes.has((codes,), high):
        return
    within(op, name, codes, 0, high)
    if not codes.is_inference():
        _codes.add((codes,), high)


class Checked:
    """Groups of tensors that passed a check, each with a number; a group counts until torch records a write to one.

    torch records no write through numpy or `.data`, and none to a tensor that was made in inference mode.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[list[weakref.ref[torch.Tensor]], tuple[int, ...] | None, float]] = {}

    def has(self, parts: Sequence[torch.Tensor], number: float = 0.0) -> bool:
        known = self._known.get(tuple(map(id, parts)))
        if known is None or known[2] != number:
            return False
        return known[1] is None or known[1] == tuple(map(_version, parts))

    def add(self, parts: Sequence[torch.Tensor], number: float = 0.0) -> None:
        key = tuple(map(id, parts))

        def forget(_: weakref.ref[torch.Tensor]) -> None:
            self._known.pop(key, None)  # a later tensor may get the same id

        counts = None if any(part.is_inference() for part in parts) else tuple(map(_version, parts))
        self._known[key] = [weakref.ref(part, forget) for part in parts], counts, number


_version = operator.attrgetter("_version")


_codes = Checked()
