"""Runs the extension on a chosen instruction set."""

import contextlib
from collections.abc import Iterator

import pytest

from reg4rec import ops
from reg4rec.kernels.machine import native_problem

BF16_ISAS = ("avx512", "amx")
"""Instruction sets on which some processors multiply bfloat16."""


@contextlib.contextmanager
def selected_isa(name: str) -> Iterator[None]:
    """The extension on one instruction set; skips the test if the machine or the extension lacks it."""
    if (problem := native_problem()) is not None:
        pytest.skip(problem)
    from reg4rec import _C

    try:
        _C.select_isa(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        _C.select_isa("")


@contextlib.contextmanager
def selected_bf16(name: str) -> Iterator[None]:
    """`selected_isa`; also skips the test if the processor cannot multiply bfloat16 on it."""
    with selected_isa(name):
        if not ops.cpp_multiplies_bf16():
            pytest.skip(f"this processor has no products of bfloat16 on {name}")
        yield
