"""`reg4rec info`: what this machine has, and what each op would run on."""

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Any

import torch

import reg4rec
from reg4rec import ops
from reg4rec.cli.output import show

__all__ = ["Info"]


@dataclass(frozen=True)
class Info:
    """Versions, devices, and for every backend whether it can be used here and why not."""

    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        packages = {name: _version(name) for name in ("torch", "triton", "cupy", "numpy", "pyarrow", "polars")}
        facts: dict[str, Any] = {
            "reg4rec": reg4rec.__version__,
            "python": f"{platform.python_version()} on {platform.machine()}",
            **packages,
            "device": _device(),
            "threads": f"{torch.get_num_threads()} CPU threads",
            **ops.status(),
        }
        facts["ops"] = {name: facts["ops"][name] for name in ops.__all__ if name in facts["ops"]}
        show(_text(facts), facts, self.json)


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{name:9} {value}" for name, value in facts.items() if not isinstance(value, dict)]
    lines += ["", "backends, in the order in which an op asks them"]
    lines += [f"  {name:8} {state}" for name, state in facts["backends"].items()]
    lines += ["", "ops and the backends that they have"]
    lines += [f"  {name:20} {', '.join(backends)}" for name, backends in facts["ops"].items()]
    if forced := facts["forced"]["backend"]:
        lines += ["", f"REG4REC_BACKEND forces {forced}"]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (no CUDA device)"
