"""fp8_linear on every backend: its gradients in fp64, NaN, the quantized weight, and the GPUs that it needs."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from reg4rec.kernels.fp8_linear.reference import E4M3, E5M2, Fp8Linear, Operand, fp8_quantize
from tests.ops.cases import exact, fp8_units, inputs
from tests.ops.test_ops import DEVICE, OPCHECKS, call, gradients, largest_error, unit_error

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

SIZES = [(1, 16, 16), (17, 48, 32), (131, 80, 272)]


@pytest.fixture(params=["eager", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[0, 1], ids=get_args(ops.Scaling))
def rowwise(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def backward_products(
    grad_TO: Tensor, x_TD: Tensor, weight_OD: Tensor, by_row: bool
) -> tuple[tuple[Operand, Operand], tuple[Operand, Operand]]:
    """The operands of the gradients of x and weight, whose scales go along the axes that are not summed."""
    return (
        (fp8_quantize(grad_TO, E5M2, by_row), fp8_quantize(weight_OD.T, E4M3, by_row)),
        (fp8_quantize(grad_TO.T, E5M2, by_row), fp8_quantize(x_TD.T, E4M3, by_row)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_the_products_of_quantized_operands(
    backend: str, rowwise: int, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    args = inputs("fp8_linear", (*sizes, rowwise), dtype)
    grad_TO = torch.arange(sizes[0] * sizes[1]).double().cos().to(dtype).view(sizes[:2])
    found, eager = gradients("fp8_linear", backend, args), gradients("fp8_linear", "eager", args)
    products = backward_products(grad_TO, args[0], args[1], bool(rowwise))
    right = [*(exact(a) @ exact(b).T for a, b in products), grad_TO.double().sum(0)]
    may_err = [*(fp8_units(a, b) if DEVICE == "cuda" else 0.0 for a, b in products), 0.0]
    for one, plain, true, units in zip(found, eager, right, may_err, strict=True):
        assert one.dtype == dtype
        largest, of_eager = float(true.abs().max()), largest_error(plain, true, units)
        assert largest_error(one, true, units) <= sizes[0] * torch.finfo(dtype).eps * largest
        assert largest_error(one, true, units) <= 2 * of_eager + torch.finfo(dtype).eps * largest


def summed_by_few_bits(left: Operand, right: Operand) -> Tensor:
    """left @ right.T as an H800 reportedly sums it (DeepSeek-V3, 3.5.2): 32 terms and the sum so far each keep 13 bits
    below the leading one of the largest; sums of 128 terms are added in float32."""
    terms_ABD = left.values.double()[:, None] * right.values.double()
    y_AB = torch.zeros(terms_ABD.shape[:2])
    for tile_ABD in terms_ABD.split(128, 2):
        sum_AB1 = tile_ABD.new_zeros(*y_AB.shape, 1)
        for few_ABD in tile_ABD.split(32, 2):
            few_ABD = torch.cat([few_ABD, sum_AB1], 2)
            step_AB1 = 2.0 ** (few_ABD.abs().amax(2, keepdim=True).frexp().exponent - 14)
            sum_AB1 = ((few_ABD / step_AB1).trunc() * step_AB1).sum(2, keepdim=True)
        y_AB += sum_AB1.squeeze(2)
    return y_AB * (left.scale * right.scale.T)


@pytest.mark.parametrize("sizes", [*SIZES, (37, 32, 80), (16, 16, 4096)], ids=str)
def test_the_bits_that_a_gpu_keeps_are_enough_for_what_is_asked_of_it(rowwise: int, sizes: tuple[int, ...]) -> None:
    """And not enough for the error bound of the CPU."""
    x_TD, weight_OD, *_ = inputs("fp8_linear", (*sizes, rowwise))
    grad_TO = torch.arange(sizes[0] * sizes[1]).cos().view(sizes[:2])
    forward = fp8_quantize(x_TD, E4M3, bool(rowwise)), fp8_quantize(weight_OD, E4M3, bool(rowwise))
    beyond = []
    for left, right in (forward, *backward_products(grad_TO, x_TD, weight_OD, bool(rowwise))):
        found, true = summed_by_few_bits(left, right), exact(left) @ exact(right).T
        rounding = torch.finfo(torch.float32).eps * float(true.abs().max())
        assert largest_error(found, true, fp8_units(left, right)) <= rounding
        beyond.append(largest_error(found, true) > 16 * rounding)
    assert any(beyond)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1], ids=["x", "weight"])
def test_what_is_no_number_spreads_as_far_as_its_scale(backend: str, rowwise: int, at: int, bad: float) -> None:
    args = inputs("fp8_linear", (17, 48, 32, rowwise))
    args[at][3, 5] = bad
    (y_TO,) = call("fp8_linear", backend, args)
    expected_TO = torch.full_like(y_TO, not rowwise, dtype=torch.bool)
    (expected_TO if at == 0 else expected_TO.T)[3] = True
    assert torch.equal(y_TO.isnan(), expected_TO)


def test_zeros_and_a_missing_bias(backend: str, rowwise: int) -> None:
    x_TD, weight_OD, _, scaling = inputs("fp8_linear", (17, 48, 32, rowwise))
    assert (call("fp8_linear", backend, (torch.zeros_like(x_TD), weight_OD, None, scaling))[0] == 0).all()
    for grad in gradients("fp8_linear", backend, (x_TD[:0], weight_OD, weight_OD[:, 0], scaling)):
        assert (grad == 0).all()


def test_strided_inputs_and_gradients_give_the_same(backend: str, rowwise: int) -> None:
    args = inputs("fp8_linear", (37, 32, 80, rowwise))
    strided = tuple(torch.stack([a, a], -1)[..., 0] if isinstance(a, Tensor) else a for a in args)
    for one, other in zip(
        gradients("fp8_linear", backend, strided), gradients("fp8_linear", backend, args), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_rows_with_separate_scales_do_not_depend_on_the_batch(backend: str) -> None:
    x_TD, *rest = inputs("fp8_linear", (37, 32, 80, 1))
    parts = [call("fp8_linear", backend, (part_TD, *rest))[0] for part_TD in (x_TD[:5], x_TD[5:])]
    (whole_TO,) = call("fp8_linear", backend, (x_TD, *rest))
    may_err = 2 * unit_error("fp8_linear", (x_TD, *rest))  # both may err
    assert largest_error(torch.cat(parts).cpu(), whole_TO.double().cpu(), may_err) <= 1e-5


def test_a_kept_weight_changes_no_bit(backend: str, rowwise: int) -> None:
    args = inputs("fp8_linear", (37, 32, 80, rowwise))
    kept = call("fp8_weight", backend, (args[1], args[3]))
    for one, other in zip(kept, call("fp8_weight", "eager", (args[1], args[3])), strict=True):
        assert torch.equal(one.float(), other.float())  # a weight made on any backend serves any other
    assert torch.equal(
        call("fp8_linear", backend, (*args, ops.Fp8Weight(*kept)))[0], call("fp8_linear", backend, args)[0]
    )
    for one, other in zip(
        gradients("fp8_linear", backend, (*args, ops.Fp8Weight(*kept))),
        gradients("fp8_linear", backend, args),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_kept_weight_is_checked_and_compiled(rowwise: int) -> None:
    x_TD, weight_OD, bias_O, scaling = inputs("fp8_linear", (17, 48, 32, rowwise))
    weight8 = ops.fp8_weight(weight_OD, scaling)
    other = ops.fp8_weight(weight_OD, "tensorwise" if rowwise else "rowwise")
    with pytest.raises(ValueError, match=f"make it by fp8_weight\\(weight_OD, '{scaling}'\\)"):
        ops.fp8_linear(x_TD, weight_OD, bias_O, scaling, other)
    with pytest.raises(ValueError, match="fp8_linear: rows8_OD has shape"):
        ops.fp8_linear(x_TD, weight_OD[:16], None, scaling, weight8)
    with pytest.raises(ValueError, match="fp8_weight: scaling must be one of tensorwise, rowwise, found 'columns'"):
        ops.fp8_weight(weight_OD, "columns")  # type: ignore[arg-type]
    checks = OPCHECKS[1:]  # the first one compares tensors by sums, which torch cannot compute in fp8
    torch.library.opcheck(
        all_ops()["fp8_weight"].library, all_ops()["fp8_weight"].flat(weight_OD, scaling), test_utils=checks
    )
    flat = all_ops()["fp8_linear"].flat(x_TD.requires_grad_(), weight_OD, bias_O, scaling, weight8)
    torch.library.opcheck(all_ops()["fp8_linear"].library, flat, test_utils=checks)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_nothing_saturates_and_casts_stay_above_25_decibels(rowwise: int, dtype: torch.dtype) -> None:
    x_TD = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    operand = fp8_quantize(x_TD, dtype, bool(rowwise))
    largest_T = operand.values.float().abs().amax(1)
    assert (largest_T.max() if not rowwise else largest_T.min()) == torch.finfo(dtype).max
    assert decibels(exact(operand), x_TD) >= 25


def decibels(found: Tensor, right: Tensor) -> float:
    """The ratio of signal to rounding error."""
    noise = (found - right).square().sum().clamp_min(1e-30)
    return float(10 * torch.log10(right.square().sum() / noise))


@pytest.mark.parametrize("outlier", [1.0, 1e3, 1e6])
def test_scales_per_row_keep_small_rows_beside_large_ones(outlier: float) -> None:
    """One row of x and one of weight are `outlier` times as large; measures the rest of y."""
    x_TD, weight_OD, _, _ = inputs("fp8_linear", (65, 48, 256, 1))
    x_TD[0] *= outlier
    weight_OD[0] *= outlier
    right_TO = F.linear(x_TD, weight_OD)[1:, 1:]
    by_tensor, by_row = (
        decibels(ops.fp8_linear(x_TD, weight_OD, None, scaling)[1:, 1:], right_TO) for scaling in get_args(ops.Scaling)
    )
    assert by_row >= max(18, by_tensor - 0.5)
    if outlier == 1e6:
        assert by_tensor < 10


def test_an_older_gpu_is_objected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip("reg4rec.kernels.fp8_linear.triton_kernel")
    monkeypatch.setattr(kernel, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "compute capability 9.0" in kernel.objection(Fp8Linear(*inputs("fp8_linear", (1, 16, 16, 0))))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernel.objection(Fp8Linear(*inputs("fp8_linear", (1, 16, 16, 0)))) is None


def test_operands_are_rounded_as_torch_rounds(rowwise: int) -> None:
    """Values from far below the smallest fp8 number to the largest, halfway cases among them."""
    kernel = pytest.importorskip("reg4rec.kernels.fp8_linear.triton_kernel")
    x_TD = (torch.arange(-3000, 3000).double() / 16).view(-1, 48).float()
    x_TD = torch.cat([x_TD, x_TD * 2.0**-9, x_TD * 2.0**-18]).to(DEVICE)
    for dtype in (E4M3, E5M2):
        found = kernel.quantize(x_TD, dtype, bool(rowwise), rows=True, columns=True)
        for one, tensor in zip(found, (x_TD, x_TD.T), strict=True):
            expected = fp8_quantize(tensor, dtype, bool(rowwise))
            assert torch.equal(one.values.float(), expected.values.float())
            assert torch.equal(one.scale, expected.scale)
