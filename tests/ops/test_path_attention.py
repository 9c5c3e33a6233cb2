"""path_attention: reads a path's own steps alone, on every instruction set, for any number of threads."""

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.machine import native_problem
from reg4rec.kernels.path_attention.native import objection
from reg4rec.kernels.path_attention.reference import PathAttention
from reg4rec.model.layers import attend_gathered
from tests.ops.cases import inputs, truth

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 4, 19, 32, 48])
def test_every_instruction_set(isa: str, width: int, dtype: torch.dtype) -> None:
    args = inputs("path_attention", (3, 5, 2, width, 6), dtype)
    with ops.use_backend("cpp"):
        assert error(ops.path_attention(*args), truth("path_attention", args)[0]) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_other_rows_and_later_steps_are_not_read(backend: str) -> None:
    q_BPAQ, keys, values, rows_BPS = inputs("path_attention", (4, 6, 2, 8, 3))
    read = torch.zeros(keys.shape[:3], dtype=torch.bool)
    for step in range(3):
        read[:, step].scatter_(1, rows_BPS[:, :, step], True)
    with ops.use_backend(backend):
        whole = ops.path_attention(q_BPAQ, keys, values, rows_BPS)
        keys[~read], values[~read] = torch.nan, torch.nan
        assert torch.equal(ops.path_attention(q_BPAQ, keys, values, rows_BPS), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fallback_of_a_gpu_gives_the_same(dtype: torch.dtype) -> None:
    args = inputs("path_attention", (4, 6, 2, 8, 3), dtype)
    assert error(attend_gathered(*args), ops.path_attention(*args).double()) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_nan_stays_with_its_path_and_a_huge_logit_takes_all(backend: str) -> None:
    q_BPAQ, keys, values, rows_BPS = inputs("path_attention", (1, 3, 1, 4, 2))
    rows_BPS[:] = torch.tensor([[0, 0], [0, 1], [1, 2]])
    q_BPAQ[0, 0, 0, 1] = torch.nan
    q_BPAQ[0, 1], keys[0, 0, 0] = 1.0, 1e4
    with ops.use_backend(backend):
        mixed = ops.path_attention(q_BPAQ, keys, values, rows_BPS)
    assert mixed[0, 0].isnan().all()
    assert mixed[0, 1:].isfinite().all()
    torch.testing.assert_close(mixed[0, 1], values[0, 0, 0])


def test_threads_do_not_change_a_bit() -> None:
    args, before = inputs("path_attention", (64, 31, 4, 32, 5)), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            with ops.use_backend("cpp"):
                results.append(ops.path_attention(*args))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_what_it_does_not_take() -> None:
    assert objection(PathAttention(*inputs("path_attention", (1, 2, 1, 4, 64)))) is None
    assert "up to 64 steps, these have 65" in str(objection(PathAttention(*inputs("path_attention", (1, 2, 1, 4, 65)))))
    q_BPAQ, keys, values, rows_BPS = inputs("path_attention", (1, 2, 1, 4, 3))
    assert "float16" in str(objection(PathAttention(q_BPAQ.half(), keys.half(), values.half(), rows_BPS)))
    with pytest.raises(ValueError, match="has 5 steps where 1 to 4 were expected"):
        ops.path_attention(q_BPAQ, keys, values, torch.zeros(1, 2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="has 0 steps"):
        ops.path_attention(q_BPAQ, keys, values, rows_BPS[:, :, :0])
