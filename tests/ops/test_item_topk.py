"""item_topk in C++: the bytes of the eager definition on every instruction set, for every layout, dtype and split."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.item_topk.native import objection
from reg4rec.kernels.item_topk.reference import ItemTopk
from reg4rec.kernels.machine import native_problem
from tests.ops.cases import inputs

pytestmark = pytest.mark.skipif(native_problem() is not None, reason="needs the extension")

SIZES = [
    (1, 4, 64, 3001, 20),
    (16, 4, 64, 1024, 20),
    (17, 1, 7, 5000, 3),
    (67, 3, 31, 1500, 50),
    (9, 4, 4096, 999, 999),
]


def assert_eager_bytes(*args: Any) -> tuple[Tensor, Tensor]:
    with ops.use_backend("cpp"):
        scores_BN, items_BN = ops.item_topk(*args)
    with ops.use_backend("eager"):
        expected_BN, order_BN = ops.item_topk(*args)
    assert torch.equal(scores_BN.view(torch.int32), expected_BN.view(torch.int32))
    assert torch.equal(items_BN, order_BN)
    return scores_BN, items_BN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_instruction_set(isa: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_eager_bytes(*inputs("item_topk", sizes, dtype))


@pytest.mark.parametrize("sizes", SIZES[:3])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_every_integer_and_any_strides(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    log_probs_BMK, ids_IM, k, exclude_BX = inputs("item_topk", sizes)
    log_probs_BMK = log_probs_BMK.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert_eager_bytes(log_probs_BMK, ids_IM.T.contiguous().T.to(dtype), k, exclude_BX.to(dtype)[:, ::2])


@pytest.mark.parametrize("sizes", [(12, 2, 4, 3000, 40), (2, 2, 4, 3000, 40)])
def test_ties_padding_and_scores_that_are_no_numbers(isa: str, sizes: tuple[int, ...]) -> None:
    log_probs_BMK, ids_IM, k, exclude_BX = inputs("item_topk", sizes)
    log_probs_BMK = log_probs_BMK.round()
    log_probs_BMK[0] = -0.0
    log_probs_BMK[1, 0] = torch.tensor([-math.inf, math.nan, math.inf, -1.0])
    scores_BN, items_BN = assert_eager_bytes(log_probs_BMK, ids_IM, k, exclude_BX)
    open_items = [item for item in range(k + 4) if item not in exclude_BX[0].tolist()]
    assert items_BN[0].tolist() == open_items[:k]
    assert scores_BN[1, 0] == math.inf
    log_probs_BMK[1, 0] = torch.tensor([-math.inf, math.nan, -math.inf, math.nan])
    assert (assert_eager_bytes(log_probs_BMK, ids_IM, k, None)[1][1] == -1).all()


@pytest.mark.parametrize("batch", [1, 16])
def test_scores_of_items_themselves(isa: str, batch: int) -> None:
    """As SASRec calls it: one codebook with a token for each item; ascending scores, seen items, more k than items."""
    scores_BMI = torch.randn(batch, 1, 5003).sort(-1).values
    ids_I1, seen_BX = torch.arange(5003)[:, None], torch.randint(-1, 5003, (batch, 300))
    for k in (0, 1, 100, 6000):
        assert_eager_bytes(scores_BMI, ids_I1, k, seen_BX)


@pytest.mark.parametrize("sizes", [(1, 4, 256, 100_003, 30), (130, 2, 64, 40_000, 30), (3, 1, 90_000, 90_000, 30)])
def test_any_number_of_threads_gives_the_same_bytes(sizes: tuple[int, ...]) -> None:
    args, before = inputs("item_topk", sizes), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_eager_bytes(*args)
    finally:
        torch.set_num_threads(before)


def test_more_codes_than_32_bits_index_are_refused() -> None:
    log_probs_BMK, ids_IM = torch.empty(1, 1, 2**31 + 1, device="meta"), torch.zeros(1, 1, dtype=torch.int64)
    assert "2147483649 codes" in str(objection(ItemTopk(log_probs_BMK, ids_IM, 1)))
