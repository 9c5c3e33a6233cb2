"""The machine that runs the benches: its name, its rates of copying and multiplying, and the memory of a call."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reg4rec.precision.format_costs import cpu_name

__all__ = ["copy_bandwidth", "machine_name", "operation_rate", "peak_bytes", "synchronized"]

Timer = Callable[[], float]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine_name() -> str:
    """The name of this machine's folder of results: processor, cores, and GPU if present."""
    words = re.sub(r"\([^)]*\)|@.*|\b(?:CPU|Processor)\b", " ", cpu_name()) + f" {os.cpu_count()} cores"
    if torch.cuda.is_available():
        words += f" {torch.cuda.get_device_name()}"
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


def synchronized(function: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The function, followed by a wait for the GPU if it runs on one."""

    def run() -> Any:
        output = function()
        torch.cuda.synchronize()
        return output

    return run if device == "cuda" else function


def copy_bandwidth(device: str, timer: Timer) -> float:
    """Bytes per second, read and written, of one large `Tensor.copy_`."""
    source, target = torch.ones(2, 1 << 26, device=device)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device, timer)


def operation_rate(device: str, timer: Timer) -> float:
    """Multiplications and additions per second of a float32 product of 2048 x 2048 matrices."""
    left, right = torch.ones(2, 2048, 2048, device=device)
    return 2 * 2048**3 / _least_seconds(lambda: left @ right, device, timer)


def _least_seconds(function: Callable[[], Any], device: str, timer: Timer) -> float:
    run, seconds = synchronized(function, device), []
    for _ in range(10):
        began = timer()
        run()
        seconds.append(timer() - began)
    return min(seconds)


def peak_bytes(function: Callable[[], Any], device: str) -> int | None:
    """Peak memory that a call adds: torch's count on a GPU, else resident pages, exact to about 100 kB.

    The allocator's free memory is first returned to the system, or the call could use it unseen. None if the system
    does not report resident pages.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5", encoding="utf-8")  # resets the peak to the present resident memory
    before = _resident("VmRSS")
    function()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
