"""Recall and NDCG on fractions computed by hand."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from reg4rec.evaluation import ndcg_at, recall_at

RANKED = np.array([[4, 7, 1], [4, 7, 1], [4, 7, 1], [4, -1, -1]], dtype=np.int32)
TARGETS = np.array([4, 1, 9, 7], dtype=np.int32)


@pytest.mark.parametrize(("k", "mean"), [(1, Fraction(1, 4)), (2, Fraction(1, 4)), (3, Fraction(2, 4))])
def test_recall(k: int, mean: Fraction) -> None:
    assert recall_at(RANKED, TARGETS, k).mean() == float(mean)


def test_ndcg() -> None:
    assert ndcg_at(RANKED, TARGETS, 3).tolist() == [1.0, 1 / log2(4), 0.0, 0.0]
    assert ndcg_at(RANKED, TARGETS, 2).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert ndcg_at(RANKED, np.array([7] * 4, dtype=np.int32), 2)[0] == 1 / log2(3)


def test_cut_offs_beyond_the_list_and_no_users() -> None:
    assert recall_at(RANKED, TARGETS, 50).tolist() == [1, 1, 0, 0]
    assert ndcg_at(RANKED, TARGETS, 50).tolist() == ndcg_at(RANKED, TARGETS, 3).tolist()
    empty = np.empty((0, 3), dtype=np.int32)
    assert recall_at(empty, np.empty(0, dtype=np.int32), 3).shape == (0,)
