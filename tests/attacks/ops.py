"""Random and hostile calls of every C++ op, compared with the eager definition: equal results, or the same refusal.

`python -m tests.attacks.ops --calls 10000 --seed 0 --isa avx2` prints one line of JSON: how many calls there were, how
many were answered and refused, and each that differed with the seed that draws it again (`--seed N --calls 1`).
"""

import argparse
import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from reg4rec import ops
from reg4rec.kernels.dispatch import all_ops
from tests.ops.cases import CASES, as_tuple, inputs

__all__ = ["OPS", "Counts", "attack", "difference", "drawn_call"]

Args = tuple[Any, ...]
Draw = random.Random

OPS = [name for name in CASES if "cpp" in all_ops()[name].backends]
KEPT = {"decoder_step": 5}
"""The position of the argument that an op writes to."""
HOSTILE = (-(2**63), -(2**40), -(2**31), -2, -1, 0, 1, 7, 1000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
COUNTS = (-(2**63), -(2**40), -1, 0, 1, 2, 2**62, 2**63 - 1)
"""Counts in between are valid, but would take gigabytes."""
EXTREME = (
    *(float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, 1e-38, 3.5e-9, 1e9, 3e16, 1e20, -3e20),
    *(1e30, 3e38, -3e38),
)
SPOILS = 0.4
"""The share of calls with hostile arguments."""


def sizes_of(name: str, draw: Draw) -> tuple[int, ...]:
    """Small sizes for the case of an op; each may be 0 if the op allows it."""
    few, some, many = (lambda low=0: draw.randint(low, 3)), (lambda low=0: draw.randint(low, 7)), draw.randint(1, 40)
    users, several = few(), lambda: (some(1), some(1), some(1))
    rows = {
        "js_divergence": lambda: (some(), many),
        "mpq_quantize": lambda: (some(), few(1), many, some(1)),
        "mpq_quantize_fused": lambda: (some(), few(1), many, some(1), some(1)),
        "beam_step": lambda: (users, some(), draw.randint(1, 4), some(1), many),
        "item_topk": lambda: (users, few(1), some(1), draw.randint(0, 40), some()),
        "path_attention": lambda: (users, some(), few(1), draw.randint(1, 20), few(1)),
        "path_topk": lambda: (users, some(), few(1), some(1), draw.randint(0, 40), draw.choice((0, 1, 20)), some(1)),
        "score_topk": lambda: (users, draw.randint(0, 70), draw.randint(1, 20), some(), draw.choice((0, 1, users))),
        "encode_histories": lambda: (users, some(), few(1), 1 + few() // 2, few(1), 2 * few(1), some(1), few() % 2),
        "decoder_step": lambda: (users, some(), 1 + few() // 2, few(1), some(1), few(), *several(), few()),
    }
    return rows[name]()


def drawn_call(seed: int) -> tuple[str, Args]:
    """The op and the arguments of a call."""
    draw = Draw(seed)
    name = draw.choice(OPS)
    sizes = sizes_of(name, draw)
    dtype = draw.choice(CASES[name].dtypes)
    leaves, spec = tree_flatten(inputs(name, sizes, dtype, seed))
    for change in (tied, scaled, spiked, strided, negated):
        if draw.random() < 0.2:
            leaves = [change(leaf, draw) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    if draw.random() < SPOILS:
        for at in draw.sample(range(len(leaves)), draw.choice((1, 1, 2))):
            leaves[at] = spoiled(leaves[at], draw)
    return name, tree_unflatten(leaves, spec)


def tied(x: Tensor, draw: Draw) -> Tensor:
    """Floats rounded, so that many are equal."""
    return x.round() if x.is_floating_point() else x


def scaled(x: Tensor, draw: Draw) -> Tensor:
    return x * 10.0 ** draw.choice((-38, -23, -9, -3, 3, 9, 17, 25, 37)) if movable(x, draw) else x


def spiked(x: Tensor, draw: Draw) -> Tensor:
    """A few floats replaced by extreme ones."""
    if not movable(x, draw):
        return x
    x = x.contiguous().clone()
    for _ in range(draw.randint(1, 3)):
        x.view(-1)[draw.randrange(x.numel())] = draw.choice(EXTREME)
    return x


def movable(x: Tensor, draw: Draw) -> bool:
    return x.is_floating_point() and x.numel() > 0 and draw.random() < 0.5


def strided(x: Tensor, draw: Draw) -> Tensor:
    """The same numbers with other strides: transposed, with gaps, or one row for all if the rows are equal."""
    kind = draw.choice(("transposed", "gaps", "expanded"))
    if kind == "transposed" and x.ndim > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "gaps" and x.ndim:
        return torch.stack([x, x], -1)[..., 0]
    if kind == "expanded" and x.ndim and x.numel():
        return x[:1].expand(x.shape) if x.is_floating_point() else x
    return x


def negated(x: Tensor, draw: Draw) -> Tensor:
    """The same numbers behind torch's negative bit."""
    return torch._neg_view(-x) if x.is_floating_point() else x


def spoiled(value: Any, draw: Draw) -> Any:
    """An argument that the contract forbids, or barely allows."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return draw.choice(COUNTS)
    if isinstance(value, float):
        return draw.choice(EXTREME)
    kind = draw.choice(("value", "value", "value", "shorter", "longer", "sparse", "dtype", "rank"))
    if kind == "value" and value.numel() and value.dtype in (torch.int16, torch.int32, torch.int64, torch.uint8):
        numbers = [h for h in HOSTILE if torch.iinfo(value.dtype).min <= h <= torch.iinfo(value.dtype).max]
        value = value.contiguous().clone()
        value.view(-1)[draw.randrange(value.numel())] = draw.choice(numbers)
        return value
    if kind == "shorter" and value.ndim:
        axis = draw.randrange(value.ndim)
        return value.narrow(axis, 0, value.shape[axis] // 2)
    if kind == "longer" and value.ndim:
        return torch.cat([value, value], draw.randrange(value.ndim))
    if kind == "sparse" and value.ndim:
        return value.to_sparse()
    if kind == "dtype":
        return value.to(draw.choice((torch.float64, torch.int16, torch.int64, torch.bool, torch.complex64)))
    return value[None] if kind == "rank" else value


def outcome(name: str, args: Args, backend: str) -> tuple[Tensor, ...] | Exception:
    """The results, with the argument that the op wrote to, or the exception that it raised."""
    own = list(args)
    if name in KEPT:
        own[KEPT[name]] = own[KEPT[name]].clone()
    try:
        with ops.use_backend(backend):
            found = as_tuple(getattr(ops, name)(*own))
    except Exception as error:
        return error
    return (*found, own[KEPT[name]]) if name in KEPT else found


def difference(name: str, args: Args) -> tuple[str, str | None]:
    """(how the call ended, how the backends differ or None)"""
    eager, cpp = outcome(name, args, "eager"), outcome(name, args, "cpp")
    if isinstance(cpp, ops.BackendError):
        return "objected", None
    if isinstance(eager, Exception) or isinstance(cpp, Exception):
        same = type(eager) is type(cpp) is ValueError and str(eager) == str(cpp)
        return "refused", None if same else f"eager: {told(eager)} | cpp: {told(cpp)}"
    for at, (one, other) in enumerate(zip(cpp, eager, strict=True)):
        problem = mismatch(one, other, functools.partial(exact_result, name, args, at))
        if problem is not None:
            return "answered", f"result {at}: {problem}"
    return "answered", None


def told(result: Any) -> str:
    return f"{type(result).__name__}: {result}"[:200] if isinstance(result, Exception) else "answers"


def exact_result(name: str, args: Args, at: int, shift: float = 0.0) -> Tensor | None:
    """A result of the eager definition in fp64, if it has one; `shift`: relative change of the arguments."""
    g = torch.Generator().manual_seed(0)

    def widened(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return x.double() * (1 + shift * torch.rand(x.shape, generator=g, dtype=torch.float64))

    found = outcome(name, tree_map_only(Tensor, widened, args), "eager")
    return None if isinstance(found, Exception) else found[at].double().nan_to_num(0, posinf=1e300, neginf=-1e300)


def mismatch(one: Tensor, eager: Tensor, exact: Callable[..., Tensor | None]) -> str | None:
    """How the results differ, or None: integers and NaN must be equal, floats may err at most twice as much as eager.

    Floats may also differ by as much as a rounding of the arguments changes them, since eager is sometimes exact by
    chance.
    """
    if one.shape != eager.shape or one.dtype != eager.dtype:
        return f"{one.dtype} {tuple(one.shape)} where eager has {eager.dtype} {tuple(eager.shape)}"
    if not one.is_floating_point():
        return None if torch.equal(one, eager) else "other integers"
    if not torch.equal(one.isnan(), eager.isnan()):
        return "NaN elsewhere"
    one, plain = (x.double().nan_to_num(0, posinf=1e300, neginf=-1e300) for x in (one, eager))
    far = (one - plain).abs()
    if not far.numel() or not far.any():
        return None
    if (far >= 1e299).any():
        return "infinite elsewhere"
    eps = torch.finfo(eager.dtype).eps
    largest = max(float(plain[plain.abs() < 1e299].abs().max()), 0.1)
    if float(far.max()) <= 16 * eps * largest:
        return None
    right, beside = exact(), exact(shift=8 * eps)
    if right is None or beside is None:
        return f"off by {float(far.max()):.3g} of {largest:.3g}"
    of_eager, of_one, of_rounding = (float((x - right).abs().max()) for x in (plain, one, beside))
    may_err = 2 * of_eager + 16 * eps * largest + of_rounding
    return None if of_one <= may_err else f"errs by {of_one:.3g}, eager by {of_eager:.3g}"


@dataclass
class Counts:
    """How calls ended."""

    calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    differ: list[tuple[int, str, str]] = field(default_factory=list)


def attack(seeds: Sequence[int]) -> Counts:
    """The calls that these seeds draw."""
    counts = Counts()
    for seed in seeds:
        name, args = drawn_call(seed)
        came_to, problem = difference(name, args)
        counts.calls += 1
        counts.outcomes[came_to] += 1
        counts.ops[name] += 1
        if problem is not None:
            counts.differ.append((seed, name, problem))
    return counts


def main() -> None:
    from reg4rec import _C

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first call; the others count on")
    parser.add_argument("--isa", default="", help="base, avx2, avx512 or amx; the best one by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _C.select_isa(options.isa)
    counts = attack(range(options.seed, options.seed + options.calls))
    line = {"isa": _C.isa(), "seed": options.seed, "calls": counts.calls, **counts.outcomes, "ops": counts.ops}
    print(json.dumps({**line, "differing": len(counts.differ), "first": counts.differ[:20]}))
    raise SystemExit(1 if counts.differ else 0)


if __name__ == "__main__":
    main()
