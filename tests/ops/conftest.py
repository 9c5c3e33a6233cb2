"""Triton kernels are interpreted without a GPU, and fresh memory is NaN in every test of an op."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.isa import selected_isa

# under deterministic algorithms, which `poisoned_memory` needs, every product by cuBLAS warns unless this sets a
# workspace of fixed size; it is read once, at the first product; a warning from a module of reg4rec is an error
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """`torch.empty` returns NaN (the largest integer, True), so a result that was not written shows.

    torch fills fresh memory only under deterministic algorithms; ops without one run as usual.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["base", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    with selected_isa(request.param):
        yield request.param
