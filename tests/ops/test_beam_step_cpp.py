"""beam_step in C++ against its definition: random calls of every kind, instruction sets, threads, NaN, large sizes."""

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.dispatch import BackendError
from reg4rec.kernels.machine import native_problem
from tests.ops.cases import inputs

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")

NEVER = -math.inf
INDEX = ops.TokenIndex.build(torch.zeros(4, 2), 3)


def assert_as_defined(args: tuple[Any, ...]) -> None:
    with ops.use_backend("cpp"):
        *found, found_scores_BP, fallback_B = ops.beam_step(*args)
    with ops.use_backend("eager"):
        *expected, scores_BP, expected_fallback_B = ops.beam_step(*args)
    for one, other in zip((*found, fallback_B), (*expected, expected_fallback_B), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(found_scores_BP, scores_BP, rtol=1e-6, atol=1e-6)


def random_logits(draw: random.Random, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Ordinary logits, ties within and between paths, -inf with NaN and +inf, bfloat16, a slice of more codebooks."""
    kind = draw.randrange(6)
    logits_BPMK = draw.choice((0.1, 1.0, 30.0)) * torch.randn(shape, generator=g)
    if kind == 0:
        logits_BPMK.zero_()
    elif kind == 1:
        logits_BPMK = torch.randn(shape[-1:], generator=g).expand(shape)
    elif kind == 2:
        chosen_BPMK = torch.rand(shape, generator=g)
        logits_BPMK = logits_BPMK.masked_fill(chosen_BPMK < 0.3, NEVER).masked_fill(chosen_BPMK > 0.98, math.nan)
        logits_BPMK = logits_BPMK.masked_fill((chosen_BPMK - 0.97).abs() < 0.01, math.inf)
    elif kind == 3:
        logits_BPMK = logits_BPMK.bfloat16()
    elif kind == 4:
        batch, paths, books, codes = shape
        logits_BPMK = torch.randn(batch, paths, books + 2, codes, generator=g)[:, :, :books]
    return logits_BPMK


def random_call(seed: int) -> tuple[Any, ...]:
    draw, g = random.Random(seed), torch.Generator().manual_seed(seed)
    batch, paths, books = draw.randrange(4), draw.randrange(9), draw.randint(1, 5)
    codes, items = draw.choice((1, 2, 3, 5, 17, 64, 70)), draw.choice((1, 7, 40, 400))
    codes_IM = torch.randint(codes, (items, books), generator=g)
    known_BPM = codes_IM[torch.randint(items, (batch, paths), generator=g)]
    depth_BP1 = torch.randint(books + 1, (batch, paths, 1), generator=g)
    used_BPM = torch.rand(batch, paths, books, generator=g).argsort(-1) < depth_BP1
    scores_BP = -torch.rand(batch, paths, generator=g) if draw.random() < 0.7 else torch.zeros(batch, paths)
    scores_BP = scores_BP.masked_fill(torch.rand(batch, paths, generator=g) < 0.2, draw.choice((NEVER, math.nan)))
    js_BP = 0.1 * torch.rand(batch, paths, generator=g)
    js_BP = js_BP.masked_fill(torch.rand(batch, paths, generator=g) < 0.2, math.nan)
    some = torch.randperm(items, generator=g)[: draw.randint(0, items)]
    return (
        random_logits(draw, (batch, paths, books, codes), g),
        scores_BP,
        torch.where(used_BPM, known_BPM, -1),
        draw.choice((None, js_BP)),
        ops.TokenIndex.build(codes_IM, codes, draw.choice((None, some)), draw.choice((False, True))),
        draw.randint(1, 10),
        draw.randrange(4),
        draw.choice((None, 0.0, 0.05)),
        draw.choice((None, torch.randint(-1, items, (batch, draw.randrange(12)), generator=g))),
        draw.random() < 0.5,
    )


def test_random_calls_are_answered_as_defined(isa: str) -> None:
    for seed in range(1000):
        assert_as_defined(random_call(seed))


@pytest.mark.parametrize("sizes", [(5, 24, 4, 256, 3000), (2, 5, 32, 4096, 500), (1, 130, 4, 100, 2000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_larger_calls_are_answered_as_defined(isa: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    logits_BPMK, scores_BP, tokens_BPM, js_BP, *rest = inputs("beam_step", sizes, dtype)
    assert_as_defined((logits_BPMK, scores_BP, tokens_BPM, js_BP, *rest))
    assert_as_defined((logits_BPMK[:, :1], scores_BP[:, :1], torch.full_like(tokens_BPM[:, :1], -1), None, *rest))


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    args = inputs("beam_step", (40, 24, 4, 256, 3000))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ops.beam_step(*args))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: torch.zeros(1, 1, 2, 3, dtype=torch.float64)}, "computes float32 and bfloat16 logits"),
        ({1: torch.zeros(1, 1, dtype=torch.float16)}, "scores_BP is torch.float16"),
        ({4: INDEX._replace(counts_MK=INDEX.counts_MK.T.contiguous().T)}, "a contiguous index"),
    ],
)
def test_objections_name_the_reason(change: dict[int, Any], reason: str) -> None:
    args: list[Any] = [torch.zeros(1, 1, 2, 3), torch.zeros(1, 1), torch.full((1, 1, 2), -1), None, INDEX, 2, 0]
    args = [change.get(at, value) for at, value in enumerate(args)]
    assert reason in ops.which("beam_step", *args).reasons["cpp"]
    with ops.use_backend("cpp"), pytest.raises(BackendError, match=reason):
        ops.beam_step(*args)
