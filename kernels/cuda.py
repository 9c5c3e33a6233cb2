"""Launches CUDA kernels: those in `_C` if it was built with CUDA, else those that CuPy compiles from csrc/."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .call import by_name
from .machine import native_has_cuda

__all__ = ["capacity_of_best", "fields", "launch", "packer", "shared_bytes", "source"]

USUAL_SHARED_BYTES = 48 << 10
"""Shared memory of a block on every GPU; a kernel must be allowed more, where the GPU has it."""
DECLARED_BYTES = 4 << 10
"""At least as much as the kernels declare themselves."""

_SOURCES = Path(__file__).parents[1] / "csrc"


@functools.cache
def shared_bytes(device: torch.device) -> int:
    """The shared memory that a launch on a device may ask for: 44 KiB on every GPU, 223 KiB on a Hopper."""
    most = USUAL_SHARED_BYTES
    if device.type == "cuda":
        most = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", most)
    return most - DECLARED_BYTES


def launch(
    op: str,
    entry: str,
    grid: int,
    block: int,
    packed: bytes,
    device: torch.device,
    shared: int = 0,
) -> None:
    """Run kernel `<op>_<entry>` on torch's current stream; `packed` comes from the op's `packer`."""
    if grid == 0:
        return
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
                kernel = _compiled(op).get_function(f"{op}_{entry}")
                if shared + DECLARED_BYTES > USUAL_SHARED_BYTES:
                    kernel.max_dynamic_shared_size_bytes = shared
                kernel((grid,), (block,), (by_value,), shared_mem=shared)


@functools.cache
def packer(op: str) -> Callable[..., bytes]:
    """A function that takes the fields of an op's struct by name and packs them for `launch`."""
    return by_name(op, fields(op), bytes)


def fields(op: str) -> list[tuple[str, str]]:
    """The name and C++ type of each field, read from the source, since `_C` may be missing where CuPy compiles it."""
    text = (_SOURCES / f"{op}_call.h").read_text(encoding="utf-8")
    return [(name, kind) for kind, name in re.findall(r"FIELD\(([^()]+), (\w+)\)", text)]


def capacity_of_best(kept: int, block: int) -> int:
    """How many keys the struct `Best` of device.cuh needs: `kept` and one for each thread, rounded to a power of 2."""
    return 1 << (kept + block - 1).bit_length()


@functools.cache
def _compiled(op: str) -> Any:
    import cupy

    return cupy.RawModule(code=source(op), options=("-std=c++17",))


def source(op: str) -> str:
    """The device code of an op as one text, since CuPy's cache would miss a change in an included file."""
    seen: set[str] = set()

    def whole(name: str) -> str:
        if not name or name in seen:
            return ""
        seen.add(name)
        text = (_SOURCES / name).read_text(encoding="utf-8")
        return re.sub(r'#include (?:<\w+>|"([\w.]+)")|#pragma once', lambda found: whole(found[1] or ""), text)

    return whole(f"{op}.cuh")
