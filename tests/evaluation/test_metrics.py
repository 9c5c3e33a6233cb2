"""Recall and NDCG on fractions computed by hand."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from reg4rec.evaluation import hit_ranks, rank_metrics

RANKED = np.array([[4, 7, 1], [4, 7, 1], [4, 7, 1], [4, -1, -1]], dtype=np.int32)
TARGETS = np.array([4, 1, 9, 7], dtype=np.int32)


@pytest.mark.parametrize(("k", "mean"), [(1, Fraction(1, 4)), (2, Fraction(1, 4)), (3, Fraction(2, 4))])
def test_recall(k: int, mean: Fraction) -> None:
    assert rank_metrics(hit_ranks(RANKED, TARGETS), (k,))[f"recall@{k}"].mean() == float(mean)


def test_ndcg() -> None:
    found = rank_metrics(hit_ranks(RANKED, TARGETS), (2, 3))
    assert found["ndcg@3"].tolist() == [1.0, 1 / log2(4), 0.0, 0.0]
    assert found["ndcg@2"].tolist() == [1.0, 0.0, 0.0, 0.0]
    second = hit_ranks(RANKED[:1], np.array([7], dtype=np.int32))
    assert rank_metrics(second, (2,))["ndcg@2"] == 1 / log2(3)


def test_no_users() -> None:
    empty = np.empty((0, 3), dtype=np.int32)
    assert rank_metrics(hit_ranks(empty, np.empty(0, dtype=np.int32)), (3,))["recall@3"].shape == (0,)
