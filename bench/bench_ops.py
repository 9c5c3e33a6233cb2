"""Every op on every backend of this machine, in groups `<op>/<size>/<device>`; results are checked after timing.

`compiled` is the eager definition under `torch.compile`, which takes long. `pytest bench/` measures times,
`pytest bench/ --benchmark-disable` runs every bench once. Interpreted kernels are never timed.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.conftest import Timed
from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from reg4rec.kernels.machine import machine_problem
from tests.ops.cases import CASES, Sizes, as_tuple, history_lengths, inputs, moved

Args = tuple[Any, ...]

CURVES: dict[str, tuple[str, int, Sizes]] = {
    "js_divergence": ("rows", 0, (20, 160, 1280, 10_240)),
    "mpq_quantize": ("rows", 0, (1, 64, 512, 4096, 16_384)),
    "mpq_quantize_fused": ("rows", 0, (1, 64, 512, 4096)),
    "beam_step": ("items", 4, (1000, 10_000, 100_000)),
    "item_topk": ("items", 3, (1000, 10_000, 100_000, 1_000_000)),
    "path_attention": ("steps", 4, (1, 2, 4, 8, 16)),
    "path_topk": ("items", 4, (1000, 10_000, 100_000, 1_000_000)),
    "score_topk": ("items", 1, (1000, 12_101, 100_000, 1_000_000)),
    "encode_histories": ("users", 0, (1, 8, 64, 512)),
    "decoder_step": ("paths", 1, (1, 20, 100, 400)),
    "fp8_linear": ("rows", 0, (16, 128, 1024, 8192)),
    "token_cross_entropy": ("rows", 0, (64, 512, 4000, 16_000)),
}
"""The axis of an op's first size that is varied: name, position, values."""


def _sizes(name: str) -> dict[str, Sizes]:
    axis, at, values = CURVES[name]
    first = next(iter(CASES[name].bench.values()))
    return CASES[name].bench | {f"{axis}={v}": (*first[:at], v, *first[at + 1 :]) for v in values}


def long_if(size: str, backend: str) -> list[pytest.MarkDecorator]:
    """The mark of benches that take long: compiling, a million items, the largest linear layer."""
    large = "1M" in size or size.endswith("=1000000") or size.startswith("8192x2048")
    return [pytest.mark.long] if large or backend == "compiled" else []


def _variants(names: Iterable[str], sizes: Callable[[str], Iterable[str]], also: Iterable[str] = ()) -> list[Any]:
    return [
        pytest.param(name, size, backend, id=f"{name}-{size}-{backend}", marks=long_if(size, backend))
        for name in names
        for size in sizes(name)
        for backend in (*all_ops()[name].backends, *(also if "=" not in size else ()))
    ]


def operations(name: str, sizes: Sizes) -> int:
    """Number of multiplications, additions, exponentials and logarithms in the plain formula; look-ups do not count."""
    if name == "js_divergence":
        rows, classes = sizes
        return 20 * rows * classes
    if name == "item_topk":
        users, books, _, items, _ = sizes
        return users * books * items
    if name == "beam_step":
        batch, paths, books, codes, _ = sizes
        return 5 * batch * paths * books * codes
    if name == "path_attention":
        users, paths, heads, width, steps = sizes
        return users * paths * heads * steps * (4 * width + 3)
    if name == "path_topk":  # for the items that paths lead to, on average as many as have the path's tokens
        users, paths, _, codes, items, width, _ = sizes
        return 2 * users * paths * items // codes * width
    if name == "score_topk":
        users, items, width, *_ = sizes
        return 2 * users * items * width
    if name == "encode_histories":
        users, longest, slots_per_item, blocks, heads, width, ffn_dim, with_memory = sizes
        dim, each = heads * width, [1 + slots_per_item * length for length in history_lengths(users, longest)]
        rows, pairs = sum(each), sum(n * n for n in each)
        last_rows, last_pairs = (rows, pairs) if with_memory else (users, rows)  # in the last block
        layers = dim * (blocks * rows * 2 * dim + ((blocks - 1) * rows + last_rows) * (2 * dim + 2 * ffn_dim))
        attention = heads * ((blocks - 1) * pairs + last_pairs) * (4 * width + 3)
        return 2 * layers + attention + 4 * rows * blocks * dim * dim * with_memory
    if name == "decoder_step":
        users, paths, blocks, heads, width, steps, slots, ffn_dim, tokens, categories = sizes
        dim, seen = heads * width, steps + 1 + slots
        block = 2 * dim * (6 * dim + 2 * ffn_dim) + heads * seen * (4 * width + 3)
        return users * paths * (blocks * block + 2 * dim * (dim * (users % 2 == 0) + tokens + categories))
    if name == "fp8_linear":
        rows, out, width, _ = sizes
        return 2 * rows * out * width
    rows, books, codes, width, *hidden = sizes
    if name == "token_cross_entropy":  # of a row about half the codebooks are open
        return (2 * width + 3) * rows * books * codes // 2
    return 2 * rows * books * width * (codes + sum(hidden))


@functools.lru_cache(1)
def arguments(name: str, size: str, device: str) -> Args:
    return moved(inputs(name, _sizes(name)[size]), device)


@functools.lru_cache(1)
def expected(name: str, size: str, device: str) -> tuple[Tensor, ...]:
    with ops.use_backend("eager"):
        return as_tuple(getattr(ops, name)(*arguments(name, size, device)))


def num_bytes(*groups: tuple[Any, ...]) -> int:
    """The bytes of all tensors among arguments and results, each of which must move at least once.

    For items with an 8-bit copy only the copy counts, since few of their vectors are read.
    """
    flat = [one for group in groups for value in group for one in (value if isinstance(value, tuple) else (value,))]
    vectors = [value for group in groups for value in group if isinstance(value, ops.ItemVectors)]
    return sum(one.nbytes for one in flat if isinstance(one, Tensor)) - sum(one.rows_ID.nbytes for one in vectors)


def _on(backend: str, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def run() -> Any:
        with ops.use_backend(backend):
            return function(*args)

    return run


@pytest.fixture
def args(name: str, size: str, backend: str, device: str) -> Args:
    """The op's arguments on the device; skips a backend that this machine or these arguments cannot use."""
    if backend == "compiled":
        return arguments(name, size, device)
    if (problem := machine_problem(backend)) is not None:
        pytest.skip(problem)
    args = arguments(name, size, device)
    choice = ops.which(name, *args)
    if choice.reasons[backend] not in ("chosen", f"{choice.backend} comes first"):
        pytest.skip(choice.reasons[backend])
    return args


@pytest.mark.parametrize(("name", "size", "backend"), _variants(CASES, _sizes, ["compiled"]))
def bench_forward(timed: Timed, name: str, size: str, backend: str, device: str, args: Args) -> None:
    call: Callable[[], Any]
    if backend == "compiled":
        torch.compiler.reset()
        op = all_ops()[name]
        call = functools.partial(torch.compile(op.reference), op.record(*args))
    else:
        call = _on(backend, getattr(ops, name), *args)
    right = expected(name, size, device)
    moved, work = num_bytes(args, right), operations(name, _sizes(name)[size])
    found = as_tuple(timed(call, f"{name}/{size}/{device}", backend, moved, work, device))
    for one, other in zip(found, right, strict=False):  # a definition may return more than the public function
        if other.is_floating_point():
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "size", "backend"),
    _variants((n for n, case in CASES.items() if case.gradients), lambda name: CASES[name].bench),
)
def bench_training(timed: Timed, name: str, size: str, backend: str, device: str, args: Args) -> None:
    """Forward and backward; the gradients are checked against those of the eager backend."""
    case = CASES[name]
    leaves = tuple(a.detach().requires_grad_() if i in case.gradients else a for i, a in enumerate(args))

    def step() -> tuple[Tensor, ...]:
        outputs = as_tuple(getattr(ops, name)(*leaves))
        total = torch.stack([one.sum() for one in outputs if one.is_floating_point()]).sum()
        return torch.autograd.grad(total, [leaves[at] for at in case.gradients])

    right = _on("eager", step)()
    factor = 1 if name.startswith("mpq") else 3  # straight-through: the backward pass does not search codewords
    moved, work = num_bytes(args, right), factor * operations(name, case.bench[size])
    found = timed(_on(backend, step), f"{name}+backward/{size}/{device}", backend, moved, work, device)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
