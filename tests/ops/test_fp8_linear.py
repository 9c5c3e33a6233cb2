"""fp8_linear on every backend: its gradients in fp64, NaN, and which GPUs it asks for."""

import math

import pytest
import torch
from torch import Tensor

from reg4rec.kernels.fp8_linear.reference import E4M3, E5M2, quantize_tensorwise
from tests.ops.cases import inputs
from tests.ops.test_ops import DEVICE, call, gradients, largest_error

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

SIZES = [(1, 16, 16), (17, 48, 32), (131, 80, 272)]


@pytest.fixture(params=["eager", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def exact_gradients(grad_TO: Tensor, x_TD: Tensor, weight_OD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The products of the quantized operands in fp64."""
    quantized = (quantize_tensorwise(*one) for one in ((grad_TO, E5M2), (x_TD, E4M3), (weight_OD, E4M3)))
    g_TO, x_TD, w_OD = (values.double() * scale.double() for values, scale in quantized)
    return g_TO @ w_OD, g_TO.T @ x_TD, grad_TO.double().sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_the_products_of_quantized_operands(
    backend: str, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    args = inputs("fp8_linear", sizes, dtype)
    grad_TO = torch.arange(sizes[0] * sizes[1]).double().cos().to(dtype).view(sizes[:2])
    found, eager = gradients("fp8_linear", backend, args), gradients("fp8_linear", "eager", args)
    for one, plain, exact in zip(found, eager, exact_gradients(grad_TO, *args[:2]), strict=True):
        assert one.dtype == dtype
        largest = float(exact.abs().max())
        assert largest_error(one, exact) <= sizes[0] * torch.finfo(dtype).eps * largest
        assert largest_error(one, exact) <= 2 * largest_error(plain, exact) + torch.finfo(dtype).eps * largest


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1], ids=["x", "weight"])
def test_what_is_no_number_spreads_to_every_row(backend: str, at: int, bad: float) -> None:
    args = inputs("fp8_linear", (17, 48, 32))
    args[at][3, 5] = bad
    assert call("fp8_linear", backend, args)[0].isnan().all()


def test_zeros_and_a_missing_bias(backend: str) -> None:
    x_TD, weight_OD, _ = inputs("fp8_linear", (17, 48, 32))
    assert (call("fp8_linear", backend, (torch.zeros_like(x_TD), weight_OD))[0] == 0).all()
    for grad in gradients("fp8_linear", backend, (x_TD[:0], weight_OD, weight_OD[:, 0])):
        assert (grad == 0).all()


def test_an_older_gpu_is_objected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip("reg4rec.kernels.fp8_linear.triton_kernel")
    monkeypatch.setattr(kernel, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "compute capability 9.0" in kernel.objection(*inputs("fp8_linear", (1, 16, 16)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernel.objection(*inputs("fp8_linear", (1, 16, 16))) is None


def test_operands_are_rounded_as_torch_rounds() -> None:
    """Values from far below the smallest fp8 number to the largest, halfway cases among them."""
    kernel = pytest.importorskip("reg4rec.kernels.fp8_linear.triton_kernel")
    x_TD = (torch.arange(-3000, 3000).double() / 16).view(-1, 48).float()
    x_TD = torch.cat([x_TD, x_TD * 2.0**-9, x_TD * 2.0**-18]).to(DEVICE)
    for dtype in (E4M3, E5M2):
        expected_TD, scale = quantize_tensorwise(x_TD, dtype)
        rows, columns = kernel.quantize(x_TD, dtype, rows=True, columns=True)
        assert torch.equal(rows.values.float(), expected_TD.float())
        assert torch.equal(columns.values.T.float(), expected_TD.float())
        assert rows.largest / torch.finfo(dtype).max == scale
