"""`reg4rec info`: what this machine has, and what each op would run on."""

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

import reg4rec
from reg4rec import ops

__all__ = ["Info"]


@dataclass(frozen=True)
class Info:
    """Versions, devices, and for every backend whether it can be used here and why not."""

    def run(self) -> None:
        print(f"reg4rec   {reg4rec.__version__}")
        print(f"python    {platform.python_version()} on {platform.machine()}")
        for package in ("torch", "triton", "cupy", "numpy", "pyarrow", "polars"):
            print(f"{package:9} {_version(package)}")
        print(f"device    {_device()}, {torch.get_num_threads()} CPU threads")
        status = ops.status()
        print("\nbackends, in the order in which an op asks them")
        for backend, state in status["backends"].items():
            print(f"  {backend:8} {state}")
        print("\nops and the backends that they have")
        for name in filter(status["ops"].__contains__, ops.__all__):
            print(f"  {name:20} {', '.join(status['ops'][name])}")
        if forced := status["forced"]["backend"]:
            print(f"\nREG4REC_BACKEND forces {forced}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (no CUDA device)"
