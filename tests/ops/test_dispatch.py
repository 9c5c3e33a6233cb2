"""The choice of a backend: order, reasons, forcing, and errors."""

import os
import subprocess
import sys

import pytest
import torch

from reg4rec import ops
from reg4rec.kernels import dispatch
from reg4rec.kernels.machine import native_problem

P, Q = torch.randn(3, 5), torch.randn(3, 5)


def test_which_gives_a_reason_for_every_backend() -> None:
    choice = ops.which("js_divergence", P, Q, 0.06)
    assert choice.backend == ("eager" if native_problem() else "cpp")
    assert list(choice.reasons) == list(ops.BACKENDS)
    assert choice.reasons[choice.backend] == "chosen"
    assert "GPU" in choice.reasons["cuda"]
    assert ops.which("js_divergence", P.double(), Q.double()).backend == "eager"
    assert ops.which("fp8_linear", torch.zeros(1, 16), torch.zeros(16, 16)).backend == "eager"


def test_which_names_the_ops_and_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"there is no op 'nothing'; the ops are .*js_divergence"):
        ops.which("nothing")
    with pytest.raises(ValueError, match="js_divergence: q_logits_TC has shape"):
        ops.which("js_divergence", P, Q[:2])


def test_a_forced_backend_that_objects_raises() -> None:
    with (
        ops.use_backend("cuda"),
        pytest.raises(ops.BackendError, match="cannot run on cuda: the tensors are on the cpu"),
    ):
        ops.js_divergence(P, Q)
    with ops.use_backend("cpp"), pytest.raises(ops.BackendError, match="fp8_linear has no cpp implementation"):
        ops.fp8_linear(torch.zeros(1, 16), torch.zeros(16, 16))
    with ops.use_backend("cuda"), pytest.raises(ops.BackendError, match="cannot run on cuda"):
        ops.which("js_divergence", P, Q)
    with pytest.raises(ops.BackendError, match="no backend 'fast'"), ops.use_backend("fast"):
        pass


@pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
def test_a_forced_backend_says_which_dtype_it_lacks() -> None:
    with ops.use_backend("cpp"), pytest.raises(ops.BackendError, match=r"these are torch\.float64"):
        ops.js_divergence(P.double(), Q.double())


def test_the_backward_pass_is_forced_where_the_forward_pass_was() -> None:
    hidden_TD = torch.randn(3, 5, requires_grad=True)
    tokens = torch.zeros(3, 2, dtype=torch.int64)
    with ops.use_backend("eager"):
        loss_T = ops.token_cross_entropy(hidden_TD, torch.randn(2, 7, 5), tokens, tokens == 0)
    with ops.use_backend("cuda"):
        assert torch.autograd.grad(loss_T.sum(), hidden_TD)[0].isfinite().all()


def test_forcing_ends_with_the_block() -> None:
    with ops.use_backend("eager"):
        assert ops.status()["forced"] == {"backend": "eager"}
        assert ops.which("js_divergence", P, Q).backend == "eager"
    assert ops.status()["forced"] == {"backend": None}


def test_status_lists_backends_and_ops() -> None:
    status = ops.status()
    assert status["backends"]["eager"] == "available"
    assert status["ops"]["js_divergence"] == ("cuda", "triton", "cpp", "eager")
    assert set(status["backends"]) == set(ops.BACKENDS)


def test_no_gradient_leaks_from_an_op_without_one() -> None:
    log_probs_BMK = P.view(1, 3, 5).clone().requires_grad_()
    assert not ops.item_topk(log_probs_BMK, torch.zeros(2, 3, dtype=torch.int32), 1)[0].requires_grad


@pytest.mark.parametrize(
    ("backend", "answer"), [("eager", "'eager'"), ("fast", "REG4REC_BACKEND=fast is unknown; the backends are cuda")]
)
def test_the_environment_forces_a_backend(backend: str, answer: str) -> None:
    code = "import torch; from reg4rec import ops; x = torch.zeros(1, 2); ops.js_divergence(x, x); print(ops.status())"
    environment = {**os.environ, "REG4REC_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert answer in done.stdout + done.stderr


def test_the_eager_path_adds_no_library_call(monkeypatch: pytest.MonkeyPatch) -> None:
    op = dispatch.all_ops()["js_divergence"]

    def refuse(*args: object) -> None:
        raise AssertionError("an eager call went through torch.library")

    monkeypatch.setattr(op, "library", refuse)
    ops.js_divergence(P, Q)
