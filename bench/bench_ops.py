"""Every op on every backend of this machine, in groups `<op>/<size>/<device>`; the result is asserted after timing.

`pytest bench/` times, `pytest bench/ --benchmark-disable` runs each once. Interpreted kernels are never timed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from reg4rec.kernels.machine import machine_problem
from tests.ops.cases import CASES, Case, as_tuple, inputs, truth

Args = tuple[Any, ...]


def variants(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, size, backend, id=f"{name}-{size}-{backend}")
        for name in names
        for size in CASES[name].bench
        for backend in all_ops()[name].backends
    ]


@pytest.fixture
def prepared(name: str, size: str, backend: str, device: str) -> Args:
    """The op's arguments on the device; skips what this machine or this call cannot run."""
    if (problem := machine_problem(backend)) is not None:
        pytest.skip(problem)
    args = tuple(_move(a, device) for a in inputs(name, CASES[name].bench[size]))
    choice = ops.which(name, *args)
    if choice.reasons[backend] not in ("chosen", f"{choice.backend} comes first"):
        pytest.skip(choice.reasons[backend])
    return args


def _move(value: Any, device: str) -> Any:
    if isinstance(value, ops.TokenIndex):
        return ops.TokenIndex(*(t.to(device) for t in value))
    return value.to(device) if isinstance(value, Tensor) else value


def _bytes(*groups: tuple[Any, ...]) -> int:
    """The bytes of all tensors among arguments and results: what has to move at least once."""
    flat = [one for group in groups for value in group for one in (value if isinstance(value, tuple) else (value,))]
    return sum(one.numel() * one.element_size() for one in flat if isinstance(one, Tensor))


def _synchronized(function: Callable[[], Any], device: str) -> Callable[[], Any]:
    def run() -> Any:
        output = function()
        torch.cuda.synchronize()
        return output

    return run if device == "cuda" else function


def _assert_right(name: str, args: tuple[Any, ...], found: tuple[Tensor, ...]) -> None:
    """Integers equal the fp64 result; floats err at most twice as much as eager, plus one rounding."""
    args = tuple(_move(a, "cpu") for a in args)
    with ops.use_backend("eager"):
        eager = as_tuple(getattr(ops, name)(*args))
    for one, plain, exact in zip(found, eager, truth(name, args), strict=True):
        if not exact.is_floating_point():
            assert torch.equal(one.cpu(), exact)
            continue
        there = exact.isfinite()
        exact, one, plain = exact[there], one.detach().cpu()[there].double(), plain.detach()[there].double()
        rounding = torch.finfo(torch.float32).eps * float(exact.abs().max())
        assert (one - exact).abs().max() <= 2 * (plain - exact).abs().max() + rounding


@pytest.mark.parametrize(("name", "size", "backend"), variants(CASES))
def bench_forward(
    benchmark: Any, name: str, size: str, backend: str, device: str, environment: dict[str, Any], prepared: Args
) -> None:
    benchmark.group = f"{name}/{size}/{device}"
    with ops.use_backend(backend):
        output = as_tuple(benchmark(_synchronized(lambda: getattr(ops, name)(*prepared), device)))
    benchmark.extra_info.update(environment, backend=backend, bytes=_bytes(prepared, output))
    _assert_right(name, prepared, output)


@pytest.mark.parametrize(("name", "size", "backend"), variants(n for n, case in CASES.items() if case.gradients))
def bench_training(
    benchmark: Any, name: str, size: str, backend: str, device: str, environment: dict[str, Any], prepared: Args
) -> None:
    """Forward and backward; the gradients are asserted against those of the eager backend."""
    case: Case = CASES[name]
    args = tuple(a.detach().requires_grad_() if i in case.gradients else a for i, a in enumerate(prepared))

    def step() -> tuple[Tensor, ...]:
        outputs = as_tuple(getattr(ops, name)(*args))
        total = torch.stack([one.sum() for one in outputs if one.is_floating_point()]).sum()
        return torch.autograd.grad(total, [args[at] for at in case.gradients])

    benchmark.group = f"{name}+backward/{size}/{device}"
    with ops.use_backend(backend):
        found = benchmark(_synchronized(step, device))
    benchmark.extra_info.update(environment, backend=backend, bytes=_bytes(prepared, found))
    with ops.use_backend("eager"):
        expected = step()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
