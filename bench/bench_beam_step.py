"""A beam step with a prefix function: for every beam a Python function returns the tokens that may follow.

The rows are in the group `beam_step` of `bench_ops.py`, so `pytest bench/ -k beam_step` shows both together.
"""

import functools
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.bench_ops import arguments, expected, num_bytes, operations
from bench.conftest import Timed, long
from reg4rec import ops
from tests.ops.cases import CASES

PrefixFunction = Callable[[int, list[int]], list[int]]


def prefix_function(index: ops.TokenIndex, exclude_BX: Tensor) -> PrefixFunction:
    """A function that returns the tokens r * K + j of the allowed items that have all tokens of a path."""
    num_codebooks, codebook_size = index.counts_MK.shape
    tokens_of = (index.codes_IM + torch.arange(num_codebooks) * codebook_size).tolist()
    items_with: defaultdict[int, set[int]] = defaultdict(set)
    for item, tokens in enumerate(tokens_of):
        for token in tokens:
            items_with[token].add(item)
    excluded = [set(row) for row in exclude_BX.tolist()]

    def allowed_tokens(user: int, path: list[int]) -> list[int]:
        items = set.intersection(*(items_with[token] for token in path)) - excluded[user]
        return list({token for item in items for token in tokens_of[item]} - set(path))

    return allowed_tokens


def hooked_step(
    allowed_tokens: PrefixFunction,
    logits_BPMK: Tensor,
    scores_BP: Tensor,
    tokens_BPM: Tensor,
    js_BP: Tensor,
    num_beams: int,
    num_spares: int,
    threshold: float,
) -> tuple[list[list[int]], list[list[int]]]:
    """(parents, tokens) of each user's best children; no two children have the same token set."""
    _, num_paths, num_codebooks, codebook_size = logits_BPMK.shape
    num_tokens = num_codebooks * codebook_size
    kept_BP, _ = ops.prune_paths(scores_BP, js_BP, num_beams, threshold)
    shift_M = torch.arange(num_codebooks) * codebook_size
    paths = [
        [[token for token in path if token >= 0] for path in user]
        for user in torch.where(tokens_BPM >= 0, tokens_BPM + shift_M, -1).tolist()
    ]
    mask = torch.full((len(paths), num_paths, num_tokens), -torch.inf, dtype=torch.float64)
    for b, p in kept_BP.nonzero().tolist():
        mask[b, p, allowed_tokens(b, paths[b][p])] = 0
    children = scores_BP.double()[..., None] + logits_BPMK.double().log_softmax(-1).flatten(2) + mask
    best = children.flatten(1).topk((num_beams + num_spares) * num_codebooks)
    parents, tokens = [], []
    for b, (scores, positions) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        found: dict[frozenset[int], tuple[int, int]] = {}
        for score, position in zip(scores, positions, strict=True):
            parent, token = divmod(position, num_tokens)
            if score > -torch.inf and len(found) < num_beams + num_spares:
                found.setdefault(frozenset([*paths[b][parent], token]), (parent, token))
        parents.append([parent for parent, _ in found.values()])
        tokens.append([token for _, token in found.values()])
    return parents, tokens


SMALL, *LARGER = CASES["beam_step"].bench


@pytest.mark.parametrize("size", [SMALL, *long(*LARGER)])
def bench_beam_step_with_a_prefix_function(timed: Timed, size: str) -> None:
    args = arguments("beam_step", size, "cpu")
    *tensors, index, num_beams, num_spares, threshold, exclude_BX, _ = args
    allowed_tokens = prefix_function(index, exclude_BX)
    right = expected("beam_step", size, "cpu")
    call = (allowed_tokens, *tensors, num_beams, num_spares, threshold)
    moved, work = num_bytes(args, right), operations("beam_step", CASES["beam_step"].bench[size])
    found = timed(functools.partial(hooked_step, *call), f"beam_step/{size}/cpu", "prefix function", moved, work)
    assert found == tuple(row.tolist() for row in right[:2])
