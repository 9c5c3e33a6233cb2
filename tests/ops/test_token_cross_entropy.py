"""token_cross_entropy on every backend: masks, rows without an open codebook, values that are no numbers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import inputs
from tests.ops.test_ops import DEVICE, call, gradients

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

NAME = "token_cross_entropy"


@pytest.fixture(params=["eager", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def results(backend: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return (*call(NAME, backend, args), *gradients(NAME, backend, args))


@pytest.mark.parametrize("codes", [13, 16], ids=["among some tokens", "among all tokens"])
def test_closed_ids_are_not_read(backend: str, codes: int) -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = inputs(NAME, (37, 3, codes, 5))
    expected = results(backend, (hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK))
    for unread in (-1, codes, 10**12):
        found = results(backend, (hidden_TD, weight_MKD, ids_TM.masked_fill(~open_TM, unread), open_TM, among_TMK))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_rows_without_an_open_codebook_cost_nothing(backend: str) -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, _ = inputs(NAME, (37, 3, 16, 5))
    for one in results(backend, (hidden_TD, weight_MKD, ids_TM, torch.zeros_like(open_TM), None)):
        assert (one == 0).all()


def test_the_only_token_is_certain(backend: str) -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, _ = inputs(NAME, (37, 3, 70, 5))
    among_TMK = torch.zeros(37, 3, 70, dtype=torch.bool).scatter_(2, ids_TM[..., None], True)
    for one in results(backend, (hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK)):
        torch.testing.assert_close(one, torch.zeros_like(one), rtol=0, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = inputs(NAME, (37, 3, 71, 5))
    args = (1e4 * hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK)
    largest = torch.einsum("td,mkd->tmk", args[0], weight_MKD).abs().max()
    rounding = torch.finfo(torch.float32).eps * float(largest)  # of a logit, and so relative to a probability
    loss_T, lse_TM, *grads = zip(results("triton", args), results("eager", args), strict=True)
    for one, other in (loss_T, lse_TM):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=rounding)
    for one, other in grads:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=rounding * float(other.abs().max()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_no_number_spoils_no_other(backend: str, bad: float) -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, _ = inputs(NAME, (37, 3, 16, 5))
    open_TM[4, 0] = True
    args = (hidden_TD, weight_MKD, ids_TM, open_TM, None)
    expected_T, expected_TD, _ = results(backend, args)
    hidden_TD[4, 2] = bad
    found_T, found_TD, _ = results(backend, args)
    assert not found_T[4].isfinite()
    others = torch.arange(37) != 4
    torch.testing.assert_close(found_T[others], expected_T[others])
    torch.testing.assert_close(found_TD[others], expected_TD[others])


def test_ids_of_any_integer_and_strided_weights(backend: str) -> None:
    hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK = inputs(NAME, (37, 3, 33, 20))
    expected = results(backend, (hidden_TD, weight_MKD, ids_TM, open_TM, among_TMK))
    strided = (hidden_TD.T.contiguous().T, weight_MKD.mT.contiguous().mT, ids_TM.short(), open_TM.T.contiguous().T)
    for one, other in zip(results(backend, (*strided, among_TMK)), expected, strict=True):
        torch.testing.assert_close(one, other)
