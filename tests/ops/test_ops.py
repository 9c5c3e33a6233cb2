"""Every op on every backend that this machine has: the same answers, checks, gradients and compiled graphs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from reg4rec.kernels.machine import interpreted, machine_problem
from tests.ops.cases import CASES, as_tuple, doubled, inputs, moved, truth

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
VARIANTS = [(name, backend) for name in CASES for backend in all_ops()[name].backends]
VALUES = [
    pytest.param(name, backend, sizes, dtype, id=f"{name}-{backend}-{'x'.join(map(str, sizes))}-{str(dtype)[6:]}")
    for name, backend in VARIANTS
    for sizes in CASES[name].sizes
    for dtype in CASES[name].dtypes
]
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
GRADIENTS = [name for name, case in CASES.items() if case.gradients]
SLOPES = [
    value
    for value in VALUES
    if value.values[0] in {*GRADIENTS} - {"fp8_linear"} and value.values[1] != "eager"
    # all backends share this backward pass, so one size is enough
    if f"{value.values[0]}_backward" in all_ops() or value.values[2] == CASES[str(value.values[0])].sizes[2]
]


def unusable(backend: str) -> str | None:
    """Why this machine cannot run `backend` at all; Triton counts as usable if its interpreter is on."""
    if backend == "triton" and DEVICE == "cpu":
        return None if interpreted() else "there is no GPU and no TRITON_INTERPRET=1"
    return machine_problem(backend)


def call(name: str, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    if (problem := unusable(backend)) is not None:
        pytest.skip(problem)
    device = "cpu" if backend == "cpp" else DEVICE
    with ops.use_backend(backend):
        return as_tuple(getattr(ops, name)(*moved(args, device)))


def largest_error(found: Tensor, right: Tensor, excused: Tensor | float = 0.0) -> float:
    """The largest error beyond the one allowed at each place."""
    difference = (found.double() - right).masked_fill(found == right, 0)
    return float((difference.abs() - excused).clamp_min(0).max()) if difference.numel() else 0.0


def unit_error(name: str, args: tuple[Any, ...]) -> Tensor | float:
    """The error that the matrix units of this machine may make."""
    units = CASES[name].units
    return 0.0 if DEVICE == "cpu" or units is None else units(*args)


def middle_inputs(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return inputs(name, CASES[name].sizes[-1 if name == "fp8_linear" else 2], dtype)


@pytest.mark.parametrize(("name", "backend", "sizes", "dtype"), VALUES)
def test_values(name: str, backend: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    args = inputs(name, sizes, dtype)
    found, eager, right = call(name, backend, args), call(name, "eager", args), truth(name, args)
    may_err = unit_error(name, args)
    for one, plain, exact in zip(found, eager, right, strict=True):
        assert one.shape == exact.shape
        if not exact.is_floating_point():
            assert torch.equal(one.cpu(), exact)
            continue
        assert one.dtype == plain.dtype
        largest = max([0.1, *exact[exact.isfinite()].abs().tolist()])
        of_eager = largest_error(plain.cpu(), exact, may_err)
        assert of_eager <= 16 * torch.finfo(dtype).eps * largest
        assert largest_error(one.cpu(), exact, may_err) <= 2 * of_eager + torch.finfo(one.dtype).eps * largest


@pytest.mark.parametrize(("name", "backend"), VARIANTS)
def test_strided_inputs_give_the_same(name: str, backend: str) -> None:
    args = middle_inputs(name)
    strided = tuple(torch.stack([a, a], -1)[..., 0] if isinstance(a, Tensor) else a for a in args)
    for one, other in zip(call(name, backend, strided), call(name, backend, args), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "backend"), VARIANTS)
def test_a_split_batch_gives_the_same(name: str, backend: str) -> None:
    case, args = CASES[name], middle_inputs(name)
    if not case.batched:
        pytest.skip("results depend on the whole batch, or users are no rows")

    def part(rows: slice) -> tuple[Any, ...]:
        return tuple(a[rows] if i in case.batched else a for i, a in enumerate(args))

    parts = zip(call(name, backend, part(slice(0, 1))), call(name, backend, part(slice(1, None))), strict=True)
    for whole, (first, rest) in zip(call(name, backend, args), parts, strict=True):
        torch.testing.assert_close(whole, torch.cat([first, rest]))


@pytest.mark.parametrize(("name", "backend"), VARIANTS)
def test_the_default_dtype_and_device_change_nothing(name: str, backend: str) -> None:
    args = middle_inputs(name)
    expected = call(name, backend, args)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = call(name, backend, args)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name: str) -> None:
    args = middle_inputs(name)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = call(name, "eager", args)
    for one, other in zip(found, call(name, "eager", args), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_bad_calls_raise(name: str) -> None:
    args = middle_inputs(name)
    for at, tensor in enumerate(args):
        if isinstance(tensor, Tensor):
            for bad in (tensor.to(torch.complex64), tensor.unsqueeze(0), tensor.to("meta")):
                with pytest.raises(ValueError, match=f"^{name}: "):
                    getattr(ops, name)(*args[:at], bad, *args[at + 1 :])


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_known_where_there_are_no_values(name: str) -> None:
    """Every tensor of a call moves to another device, also those of an index."""
    op, args = all_ops()[name], middle_inputs(name)
    found = as_tuple(op.library(*op.flat(*moved(args, "meta"))))
    for one, other in zip(found, call(name, "eager", args), strict=False):  # the public function may return fewer
        assert (one.device.type, one.dtype, one.shape) == ("meta", other.dtype, other.shape)


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name != "fp8_linear"])
def test_gradients(name: str) -> None:
    case, args = CASES[name], list(middle_inputs(name, torch.float64))
    for at in case.gradients:
        args[at].requires_grad_()
    if case.surrogate is None:
        assert torch.autograd.gradcheck(getattr(ops, name), args)
        return
    wanted = [args[at] for at in case.gradients]
    mixed_BE, expected_BE = getattr(ops, name)(*args)[1], case.surrogate(*args)
    weights_BE = torch.randn_like(mixed_BE)
    torch.testing.assert_close(mixed_BE, expected_BE)
    found = torch.autograd.grad((mixed_BE * weights_BE).sum(), wanted)
    torch.testing.assert_close(found, torch.autograd.grad((expected_BE * weights_BE).sum(), wanted))


def gradients(name: str, backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Gradients of an arbitrary weighted sum of the results, whose weights are the same for every dtype."""
    leaves = [a.clone().requires_grad_() if at in CASES[name].gradients else a for at, a in enumerate(args)]
    outputs = [one.double() for one in call(name, backend, tuple(leaves)) if one.is_floating_point()]
    total = torch.stack([(one * torch.arange(one.numel()).cos().to(one).view_as(one)).sum() for one in outputs]).sum()
    return torch.autograd.grad(total, [leaves[at] for at in CASES[name].gradients])


@pytest.mark.parametrize(("name", "backend", "sizes", "dtype"), SLOPES)
def test_gradients_err_at_most_twice_as_much_as_eager(
    name: str, backend: str, sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    args = inputs(name, sizes, dtype)
    found, eager = gradients(name, backend, args), gradients(name, "eager", args)
    right = gradients(name, "eager", doubled(args))
    for one, plain, exact in zip(found, eager, right, strict=True):
        assert one.dtype == dtype
        allowed = 2 * largest_error(plain, exact) + torch.finfo(dtype).eps * max([0.1, *exact.abs().flatten().tolist()])
        assert largest_error(one, exact) <= allowed


@pytest.mark.parametrize("name", CASES)
def test_library_registration(name: str) -> None:
    op, checks = all_ops()[name], list(OPCHECKS)
    flat = list(op.flat(*middle_inputs(name)))
    if CASES[name].surrogate is not None:
        # this check adds float outputs to the integer sum of the first one, so it runs without gradients here
        torch.library.opcheck(op.library, tuple(flat), test_utils=checks.pop())
    for at in CASES[name].gradients:
        flat[at] = flat[at].clone().requires_grad_()
    torch.library.opcheck(op.library, tuple(flat), test_utils=checks)


@pytest.mark.parametrize("name", CASES)
def test_compiles_to_one_graph(name: str) -> None:
    torch.compiler.reset()  # torch compiles one function only a few times, and there are more ops
    args, wanted = list(middle_inputs(name)), CASES[name].gradients
    for at in wanted:
        args[at].requires_grad_()

    def results(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        output = as_tuple(function(*args))
        if not wanted:
            return output
        total = torch.stack([one.square().sum() for one in output if one.is_floating_point()]).sum()
        return output + torch.autograd.grad(total, [args[at] for at in wanted])

    plain = getattr(ops, name)
    compiled = torch.compile(lambda *a: plain(*a), fullgraph=True, backend="aot_eager")
    for one, other in zip(results(compiled), results(plain), strict=True):
        torch.testing.assert_close(one, other)
