"""path_topk against its plainest definition, on every instruction set, in any split, and with NaN."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.machine import native_problem
from reg4rec.kernels.path_topk.native import objection
from reg4rec.kernels.path_topk.reference import PathTopk
from tests.ops.cases import CASES, inputs

Args = tuple[Any, ...]
BACKENDS = ["eager", pytest.param("cpp", marks=pytest.mark.skipif(native_problem() is not None, reason="no extension"))]
SIZES = (6, 31, 3, 4, 97, 17, 9)


def by_definition(args: Args) -> list[list[tuple[int, int]]]:
    """(item, path) of every place of every user, item after item."""
    tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring = args
    found = []
    for user in range(len(tokens_BWM)):
        gone = set() if exclude_BX is None else set(exclude_BX[user].tolist())
        ranked = []
        for item, codes in enumerate(index.codes_IM.tolist()):
            first = next((w for w in range(tokens_BWM.shape[1]) if leads(tokens_BWM, scores_BW, user, w, codes)), None)
            if first is None or item in gone:
                continue
            score = float(scores_BW[user, first])
            if scoring is not None:
                logits_BMK, states_BD, residual_ID, repeated_BL, repeat_bias = scoring
                own = math.fsum(float(logits_BMK[user, m, code]) for m, code in enumerate(codes))
                own += float(states_BD[user].double() @ residual_ID[item].double())
                score = own + float(repeat_bias) * (item in repeated_BL[user].tolist())
            ranked.append((-score, first, int(rank_I[item]), item))
        found.append([(item, first) for _, first, _, item in sorted(ranked)[:k]])
    return found


def leads(tokens_BWM: Tensor, scores_BW: Tensor, user: int, path: int, codes: list[int]) -> bool:
    tokens = tokens_BWM[user, path].tolist()
    fits = all(token in (-1, code) for token, code in zip(tokens, codes, strict=True))
    return float(scores_BW[user, path]) > -math.inf and fits and max(tokens) >= 0


def places(result: tuple[Tensor, ...]) -> list[list[tuple[int, int]]]:
    _, items_BN, path_BN = result
    pairs = zip(items_BN.tolist(), path_BN.tolist(), strict=True)
    return [[(item, path) for item, path in zip(*both, strict=True) if item >= 0] for both in pairs]


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_items_of_the_definition(backend: str, scored: bool) -> None:
    for seed in range(4):
        args = inputs("path_topk", SIZES, seed=seed)
        if not scored:
            args = *args[:6], None
        with ops.use_backend(backend):
            found = ops.path_topk(*args)
        assert places(found) == by_definition(args)
        scores_BN, items_BN = found[:2]
        assert (scores_BN.diff(dim=1).nan_to_num(0) <= 0).all()
        assert ((items_BN < 0) == (scores_BN == -torch.inf)).all()


def test_every_instruction_set(isa: str) -> None:
    for sizes in CASES["path_topk"].sizes:
        args = inputs("path_topk", sizes)
        with ops.use_backend("cpp"):
            found = ops.path_topk(*args)
        with ops.use_backend("eager"):
            expected = ops.path_topk(*args)
        assert all(map(torch.equal, found[1:], expected[1:]))
        torch.testing.assert_close(found[0], expected[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_split_gives_the_same_bits(backend: str) -> None:
    tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring = inputs("path_topk", SIZES)
    with ops.use_backend(backend):
        whole = ops.path_topk(tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring)
        for user in range(len(tokens_BWM)):
            one = slice(user, user + 1)
            own = scoring._replace(
                **{name: getattr(scoring, name)[one] for name in ("logits_BMK", "states_BD", "repeated_BL")}
            )
            alone = ops.path_topk(tokens_BWM[one], scores_BW[one], index, rank_I, k, exclude_BX[one], own)
            assert all(torch.equal(part[0], other[user]) for part, other in zip(alone, whole, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_the_worst_score_and_paths_to_no_item_are_passed_over(backend: str) -> None:
    codes_IM = torch.tensor([[0, 1], [0, 2], [1, 1], [0, 3]])
    index = ops.TokenIndex.build(codes_IM, 4)
    residual = torch.tensor([[torch.nan], [1.0], [2.0], [-torch.inf]])
    scoring = ops.ItemScoring(
        torch.zeros(1, 2, 4), torch.ones(1, 1), residual, torch.tensor([[1, -1]]), torch.tensor(0.5)
    )
    tokens_BWM = torch.tensor([[[0, -1], [-1, -1], [3, -1], [-1, 1], [0, -1]]])
    scores_BW = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -torch.inf]])
    with ops.use_backend(backend):
        found = ops.path_topk(tokens_BWM, scores_BW, index, torch.arange(4), 5, None, scoring)
    assert found[1].tolist() == [[2, 1, 3, 0, -1]]
    assert found[2].tolist() == [[3, 0, 0, 0, -1]]
    assert found[0][0, :2].tolist() == [2.0, 1.5]
    assert found[0][0, 3].isnan()


def test_what_it_does_not_take() -> None:
    args = inputs("path_topk", SIZES)
    scoring = args[6]
    refused: list[tuple[int, Any, str]] = [
        (4, 0, "k must lie in 1..2147483647, found 0"),
        (6, scoring._replace(residual_ID=scoring.residual_ID[1:]), r"scoring.residual_ID has shape \(96, 17\)"),
        (6, scoring._replace(states_BD=scoring.states_BD.long()), "scoring.states_BD must be one of"),
    ]
    for at, value, message in refused:
        with pytest.raises(ValueError, match=rf"path_topk: {message}"):
            ops.path_topk(*(value if place == at else arg for place, arg in enumerate(args)))
    call = PathTopk(*args)
    double = call._replace(scores_BW=call.scores_BW.double())
    assert "it reads float32, scores_BW is torch.float64" in str(objection(double))
    strided = args[2]._replace(postings=torch.stack([args[2].postings] * 2, 1)[:, 0])
    assert "it reads a contiguous index" in str(objection(call._replace(token_index=strided)))
