"""The time of a linear layer in each number format on this machine, measured once and saved."""

import platform
import re
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from reg4rec.data.download import cache_folder
from reg4rec.model import Format, Linear
from reg4rec.storage import read_json, write_json

__all__ = ["FormatCosts", "LayerSize", "cpu_name", "format_costs"]

FormatCosts = dict[str, dict[Format, float]]
"""Seconds of a forward and a backward pass by size (as text) and format; a format that cannot run is left out."""
ROUNDS = 9


class LayerSize(NamedTuple):
    """The size on which the time of a layer depends: rows, rounded up to a power of two, and both widths."""

    rows: int
    inputs: int
    outputs: int

    @classmethod
    def of(cls, layer: Linear, num_rows: int) -> "LayerSize":
        return cls(1 << (num_rows - 1).bit_length(), layer.in_features, layer.out_features)

    def __str__(self) -> str:
        return f"{self.rows} x {self.inputs} -> {self.outputs}"


def format_costs(sizes: Iterable[LayerSize], device: torch.device) -> FormatCosts:
    """The costs of these sizes; measures and saves those that were not measured on this machine before.

    The file is in the cache folder (`REG4REC_CACHE`), so that later runs choose formats by the same numbers.
    """
    path = cache_folder() / "format-costs.json"
    table: dict[str, FormatCosts] = read_json(path) if path.exists() else {}
    known = table.setdefault(_machine(device), {})
    wanted = sorted(set(sizes))
    missing = [size for size in wanted if str(size) not in known]
    if missing:
        known |= {str(size): _measured(size, device) for size in missing}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, table)
    return {str(size): known[str(size)] for size in wanted}


def cpu_name() -> str:
    """The name of the processor."""
    facts = Path("/proc/cpuinfo")
    text = facts.read_text(encoding="utf-8") if facts.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _measured(size: LayerSize, device: torch.device) -> dict[Format, float]:
    """Medians over rounds in which the formats take turns; the first round is a warm-up."""
    with torch.random.fork_rng():
        layer = Linear(size.inputs, size.outputs, device=device)
        x_TD = torch.randn(size.rows, size.inputs, device=device, requires_grad=True)
        grad_TO = torch.randn(size.rows, size.outputs, device=device)
    seconds: dict[Format, list[float]] = {name: [] for name in layer.formats}
    for _ in range(1 + ROUNDS):
        for name, times in seconds.items():
            layer.format = name  # setting it drops the cached fp8 weight, as a training step does
            began = _now(device)
            layer(x_TD).backward(grad_TO)
            times.append(_now(device) - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
