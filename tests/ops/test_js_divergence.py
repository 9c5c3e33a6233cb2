"""js_divergence in C++: properties for any logits, instruction sets, threads, forks, NaN."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from reg4rec import ops
from reg4rec.kernels.machine import native_problem
from tests.ops.cases import inputs, truth

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")

LOGITS = arrays(
    "float32",
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.one_of(st.floats(-60, 60, width=32), st.just(-math.inf)),
)


@given(LOGITS, st.integers(0, 2**31), st.floats(1e-3, 3))
@settings(max_examples=100, deadline=None)
def test_properties_for_any_logits(logits: object, seed: int, distance: float) -> None:
    p = torch.as_tensor(logits)
    p[:, 0] = p[:, 0].clamp_min(-60)
    q = p + distance * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    js, keep = ops.js_divergence(p, q, 0.06)
    exact, exactly_kept = truth("js_divergence", (p, q, 0.06))
    assert (js - exact).abs().max() < 1e-6
    assert torch.equal(keep, exactly_kept)
    assert torch.equal(js, ops.js_divergence(q, p))
    assert (js >= 0).all()
    assert (js <= math.log(2) + 1e-6).all()
    assert (ops.js_divergence(p, p) < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set(isa: str, dtype: torch.dtype) -> None:
    for sizes in ((3, 1), (17, 16), (9, 47), (5, 300), (3, 4099)):
        args = inputs("js_divergence", sizes, dtype)
        with ops.use_backend("cpp"):
            js_T, keep_T = ops.js_divergence(*args)
        exact_T, exactly_kept_T = truth("js_divergence", args)
        torch.testing.assert_close(js_T.double(), exact_T, rtol=0, atol=2e-7)
        assert torch.equal(keep_T, exactly_kept_T)


def test_values_that_are_no_numbers(isa: str) -> None:
    p = torch.zeros(5, 19)
    p[1, 18], p[2, 3], p[3], p[4, :18] = math.nan, math.inf, -math.inf, -math.inf
    js_T, keep_T = ops.js_divergence(p, torch.zeros(5, 19), 1.0)
    assert js_T.isnan().tolist() == [False, True, True, True, False]
    assert keep_T.tolist() == [True, False, False, False, True]


def test_rows_at_the_threshold_are_decided_in_fp64() -> None:
    p_logits_TC, q_logits_TC, _ = inputs("js_divergence", (256, 33))
    exact_T = truth("js_divergence", (p_logits_TC, q_logits_TC))[0]
    for row, exact in enumerate(exact_T[:64].tolist()):
        one = p_logits_TC[row : row + 1], q_logits_TC[row : row + 1]
        for threshold in (exact * (1 - 1e-12), exact * (1 + 1e-12)):
            assert ops.js_divergence(*one, threshold)[1].item() is (threshold > exact)


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    args = inputs("js_divergence", (2000, 77))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ops.js_divergence(*args))
    torch.set_num_threads(before)
    for js_T, keep_T in results[1:]:
        assert torch.equal(js_T, results[0][0])
        assert torch.equal(keep_T, results[0][1])


FORK = """
import os, torch
from reg4rec import ops
torch.set_num_threads(2)
p, q = torch.randn(4000, 64), torch.randn(4000, 64)
js = ops.js_divergence(p, q)
child = os.fork()
same = torch.equal(js, ops.js_divergence(p, q))
if child == 0:
    os._exit(0 if same else 3)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def test_a_forked_child_computes_too() -> None:
    assert run_python(FORK).stdout.split() == ["True", "0"]


def test_the_environment_selects_the_instruction_set() -> None:
    show = "from reg4rec import _C; print(_C.isa())"
    assert run_python(show, REG4REC_ISA="base").stdout.strip() == "base"
    assert (
        "instruction set sse9 is unknown; there are base, avx2, avx512 and amx"
        in run_python(show, REG4REC_ISA="sse9").stderr
    )
    status = "from reg4rec import ops; print(ops.status()['backends']['cpp'])"
    assert "instruction set sse9 is unknown" in run_python(status, REG4REC_ISA="sse9").stdout
