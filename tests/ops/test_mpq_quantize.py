"""mpq_quantize and its fused form in C++ and Triton: the ids of the fp64 definition, also for near ties."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.isa import selected_isa
from tests.ops.cases import inputs, truth
from tests.ops.test_ops import call

SIZES = [(1, 32, 3, 7), (97, 2, 65, 33), (13, 1, 4096, 5), (193, 3, 64, 128), (5, 2, 1, 1)]


@pytest.fixture(params=["base", "avx2", "avx512", "triton"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """C++ on each instruction set that this machine has, and Triton."""
    if request.param == "triton":
        yield "triton"
    else:
        with selected_isa(request.param):
            yield "cpp"


def assert_exact_ids(backend: str, *args: Any, op: str = "mpq_quantize") -> tuple[Tensor, Tensor]:
    ids_BM, mixed_BE = (one.cpu() for one in call(op, backend, args))
    assert torch.equal(ids_BM, truth(op, args)[0])
    return ids_BM, mixed_BE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_instruction_set(isa: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    args = inputs("mpq_quantize", sizes, dtype)
    _, mixed_BE = assert_exact_ids("cpp", *args)
    torch.testing.assert_close(mixed_BE, truth("mpq_quantize", args)[1].to(dtype))
    assert_exact_ids("cpp", args[0], args[1])


def test_the_lowest_of_equal_codewords_is_taken(backend: str) -> None:
    latents_BME, codebooks_MKE, gate_BM = inputs("mpq_quantize", (12, 2, 50, 16))
    ids_BM, _ = assert_exact_ids(backend, latents_BME, codebooks_MKE.repeat(1, 3, 1), gate_BM)
    assert ids_BM.max() < 50


@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e15, 1.5e18, 3e18, 1e19, 1e30])
def test_near_ties_are_decided_in_fp64(backend: str, scale: float) -> None:
    """Latents close to halfway between two codewords; scales whose squares underflow or overflow float32."""
    _, codebooks_MKE, _ = inputs("mpq_quantize", (1, 2, 70, 24))
    num = 7 if backend == "triton" else 23  # one after another, which is slow in the interpreter
    middle_BME = (codebooks_MKE[:, 1 : num + 1] + codebooks_MKE[:, :num]).transpose(0, 1) / 2
    close_MKE = torch.cat([codebooks_MKE, codebooks_MKE * (1 + 2e-7)], dim=1)
    assert_exact_ids(backend, scale * middle_BME, scale * codebooks_MKE)
    assert_exact_ids(backend, scale * middle_BME, scale * close_MKE)


def test_codewords_much_shorter_than_the_latents(backend: str) -> None:
    latents_BME, codebooks_MKE, _ = inputs("mpq_quantize", (64, 1, 40, 16))
    assert_exact_ids(backend, 1e5 * latents_BME, 1e-25 * codebooks_MKE)


def test_scores_that_overflow_are_compared_in_fp64(backend: str) -> None:
    latents_BME, codebooks_MKE = torch.tensor([[[1.8e19]]]), torch.tensor([[[0.0], [2.7e19]]])
    assert assert_exact_ids(backend, latents_BME, codebooks_MKE)[0].item() == 1


def test_a_row_that_is_no_number_spoils_no_other(backend: str) -> None:
    latents_BME, codebooks_MKE, gate_BM = inputs("mpq_quantize", (7, 2, 13, 5))
    expected_BM = assert_exact_ids(backend, latents_BME, codebooks_MKE, gate_BM)[0]
    latents_BME[2, 0, 1], latents_BME[4, 1, 4] = math.nan, math.inf
    ids_BM = call("mpq_quantize", backend, (latents_BME, codebooks_MKE, gate_BM))[0].cpu()
    assert (ids_BM >= 0).all()
    assert (ids_BM < 13).all()
    assert torch.equal(ids_BM[[0, 1, 3, 5, 6]], expected_BM[[0, 1, 3, 5, 6]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_form_compares_exact_latents(backend: str, dtype: torch.dtype) -> None:
    """Codewords that differ by less than the error of the projection."""
    hidden_BMH, weight_MEH, bias_ME, codebooks_MKE, gate_BM = inputs("mpq_quantize_fused", (33, 2, 20, 16, 64), dtype)
    close_MKE = torch.cat([codebooks_MKE, codebooks_MKE * (1 + torch.finfo(dtype).eps)], dim=1)
    assert_exact_ids(backend, hidden_BMH, weight_MEH, bias_ME, close_MKE, gate_BM, op="mpq_quantize_fused")


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    args, before = inputs("mpq_quantize", (1000, 3, 100, 20)), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(assert_exact_ids("cpp", *args))
    finally:
        torch.set_num_threads(before)
    for ids_BM, mixed_BE in results[1:]:
        assert torch.equal(ids_BM, results[0][0])
        assert torch.equal(mixed_BE, results[0][1])
