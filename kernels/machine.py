"""Which backends this machine has, and why it lacks the others, found without importing triton or cupy."""

import functools
import importlib.util
import os
from pathlib import Path

import torch

__all__ = ["backend_problem", "interpreted", "machine_problem", "native_has_cuda", "native_problem"]

_PACKAGE = __name__.split(".", maxsplit=1)[0]


@functools.cache
def interpreted() -> bool:
    """Whether Triton kernels run in the interpreter (TRITON_INTERPRET=1 when this was first asked)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def native_problem() -> str | None:
    """Why the extension `_C` cannot be used here, or None; a failed build leaves its reason in `_C.missing.txt`."""
    if importlib.util.find_spec(f"{_PACKAGE}._C") is not None:
        return None
    note = Path(__file__).parents[1] / "_C.missing.txt"
    reason = note.read_text(encoding="utf-8").strip() if note.exists() else "it was not built"
    return f"the extension {_PACKAGE}._C is not there: {reason}"


@functools.cache
def native_has_cuda() -> bool:
    """Whether the extension `_C` exists and was built with CUDA."""
    return native_problem() is None and bool(importlib.import_module(f"{_PACKAGE}._C").has_cuda)


@functools.cache
def _cuda_problem() -> str | None:
    if native_has_cuda() or importlib.util.find_spec("cupy") is not None:
        return None
    problem = native_problem() or f"the extension {_PACKAGE}._C was built without CUDA"
    return f"{problem}, and cupy, which could compile the kernels, is not installed (extra cuda12 or cuda13)"


@functools.cache
def _triton_problem() -> str | None:
    return None if importlib.util.find_spec("triton") is not None else "the package triton is not installed"


def backend_problem(backend: str, device: str, asked: bool) -> str | None:
    """Why `backend` cannot work on tensors of this device type, or None. asked: whether it was forced."""
    if backend == "eager":
        return None
    if backend == "cpp":
        return native_problem() if device == "cpu" else f"the tensors are on {device}, it computes on the CPU"
    if backend == "cuda":
        return _cuda_problem() if device == "cuda" else f"the tensors are on the {device}, it needs a GPU"
    if interpreted() and not asked:
        return "the kernels are interpreted, and run only if this backend is forced"
    if device != "cuda" and not interpreted():
        return f"the tensors are on the {device}, it needs a GPU (or TRITON_INTERPRET=1 set at the start)"
    return _triton_problem()


def machine_problem(backend: str) -> str | None:
    """Why this machine as a whole cannot use `backend`, or None."""
    if backend in ("cuda", "triton") and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return backend_problem(backend, "cpu" if backend == "cpp" else "cuda", asked=False)
