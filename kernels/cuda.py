"""How a CUDA kernel is launched: out of `_C` where that was built with CUDA, else compiled from csrc/ by CuPy."""

import functools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .machine import native_has_cuda

__all__ = ["SHARED_BYTES", "Argument", "capacity_of_best", "launch", "pack", "source"]

SHARED_BYTES = 44 << 10
"""Shared memory that a launch may ask for; every GPU has 48 KiB, and the kernels hold a little of their own."""

Argument = torch.Tensor | int | float | None

_SOURCES = Path(__file__).parents[1] / "csrc"


def launch(
    op: str,
    entry: str,
    grid: int,
    block: int,
    arguments: Sequence[Argument],
    device: torch.device,
    shared: int = 0,
) -> None:
    """Run kernel `<op>_<entry>` on torch's current stream; `arguments` are the fields of its struct, in order."""
    if grid == 0:
        return
    packed = pack(arguments)
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        if native_has_cuda():
            from .. import _C

            _C.launch_cuda(f"{op}_{entry}", grid, block, shared, packed, stream)
        else:
            import cupy
            import numpy

            # a NumPy array of one element is passed by value
            by_value = numpy.frombuffer(packed, dtype=f"V{len(packed)}")
            with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream):
                _compiled(op).get_function(f"{op}_{entry}")((grid,), (block,), (by_value,), shared_mem=shared)


def pack(arguments: Sequence[Argument]) -> bytes:
    """Eight bytes for each: the address of a tensor (0 for None), a long long or a double."""
    values = [argument.data_ptr() if isinstance(argument, torch.Tensor) else argument or 0 for argument in arguments]
    kinds = "".join("d" if isinstance(argument, float) else "q" for argument in arguments)
    return struct.pack(kinds, *values)


def capacity_of_best(kept: int, block: int) -> int:
    """How many keys the struct `Best` of device.cuh needs: a power of two, `kept` and one for each thread."""
    return 1 << (kept + block - 1).bit_length()


@functools.cache
def _compiled(op: str) -> Any:
    import cupy

    return cupy.RawModule(code=source(op), options=("-std=c++17",))


def source(op: str) -> str:
    """The device code of an op in one piece: CuPy's cache does not look into included files."""
    text = (_SOURCES / f"{op}.cuh").read_text(encoding="utf-8")
    return re.sub(r'#include "(\w+)\.cuh"|#pragma once', lambda found: source(found[1]) if found[1] else "", text)
