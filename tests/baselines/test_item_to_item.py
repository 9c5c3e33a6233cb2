"""Transitions, item-kNN and EASE against plain loops and a textbook solve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from reg4rec.baselines import Ease, EaseConfig, ItemKNN, ItemKNNConfig, Transitions, TransitionsConfig
from reg4rec.baselines import ease as module_of_ease
from reg4rec.baselines import item_to_item as module_of_ranking
from reg4rec.baselines.item_to_item import ItemToItem
from reg4rec.data import Dataset, ItemCatalog, Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, evaluate
from reg4rec.run import Run

METHODS = (Transitions, ItemKNN, Ease)
I = 14  # noqa: E741
Float64 = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Random histories with repeated items, and two items that nobody took."""
    draw = np.random.default_rng(0)
    histories = [draw.integers(I - 2, size=draw.integers(1, 12)).tolist() for _ in range(40)]
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(I))}))
    return Dataset.build("random", pa.array(range(40)), Sequences.from_lists(histories), items)


@pytest.fixture(scope="module")
def histories(data: Dataset) -> Sequences:
    return Sequences.from_lists([*(data.sequences[row].tolist() for row in range(20)), [], [3], range(I)])


def fit(method: type[Any], data: Dataset, **overrides: Any) -> ItemToItem:
    ranker: ItemToItem = method.fit(data, run=Run(device="cpu"), **overrides)
    return ranker


def check_ranking(ranker: ItemToItem, data: Dataset, histories: Sequences, scores: Callable[[Any], Float64]) -> None:
    """The ranking is a sort of the scores, then of popularity, then of rows."""
    counts_I = data.item_counts("train")
    for filter_seen in (False, True):
        ranked_BN = ranker.rank(histories, I + 2, filter_seen)
        assert ranked_BN.dtype == np.int32
        for row in range(len(histories)):
            history = histories[row].tolist()
            wanted = scores(history).round(9)
            order = sorted(range(I), key=lambda i: (-wanted[i], -counts_I[i], i))
            left = [i for i in order if not (filter_seen and i in history)]
            assert ranked_BN[row].tolist() == left + [-1] * (I + 2 - len(left))


@pytest.mark.parametrize("second_weight", [0.0, 0.25, 2.0])
def test_transitions_are_what_a_loop_counts(data: Dataset, histories: Sequences, second_weight: float) -> None:
    counts_II, train = np.zeros((I, I)), data.part("train")
    for user in range(len(train)):
        for one, next_one in zip(train[user][:-1], train[user][1:], strict=True):
            counts_II[one, next_one] += 1

    def scores(history: list[int]) -> Float64:
        weights = [1.0, second_weight]
        return sum((w * counts_II[i] for w, i in zip(weights, history[::-1], strict=False)), np.zeros(I))

    check_ranking(fit(Transitions, data, second_weight=second_weight), data, histories, scores)


@pytest.mark.parametrize(("neighbors", "shrink", "decay"), [(3, 0.0, 1.0), (5, 2.5, 0.5), (100, 1.0, 0.9)])
def test_nearness_is_the_shrunk_cosine_of_columns(
    data: Dataset, histories: Sequences, neighbors: int, shrink: float, decay: float
) -> None:
    taken_BI = taken(data)
    near_II = np.zeros((I, I))
    for i in range(I):
        for j in range(I):
            if i != j:
                divisor = np.linalg.norm(taken_BI[:, i]) * np.linalg.norm(taken_BI[:, j]) + shrink
                near_II[i, j] = taken_BI[:, i] @ taken_BI[:, j] / np.maximum(divisor, 1e-9)
        nearest = np.argsort(-near_II[i].round(12), kind="stable")[:neighbors]
        near_II[i, np.setdiff1d(range(I), nearest)] = 0

    def scores(history: list[int]) -> Float64:
        return sum((decay**age * near_II[i] for age, i in enumerate(history[::-1])), np.zeros(I))

    ranker = fit(ItemKNN, data, neighbors=neighbors, shrink=shrink, decay=decay)
    np.testing.assert_allclose(ranker.matrix_II.toarray(), near_II, atol=1e-12)
    check_ranking(ranker, data, histories, scores)


@pytest.mark.parametrize("regularization", [0.5, 20.0])
def test_ease_is_the_solution_column_by_column(data: Dataset, histories: Sequences, regularization: float) -> None:
    """Ridge regression of each item on all others, which is what the closed form solves at once."""
    taken_BI, weights_II = taken(data), np.zeros((I, I))
    for j in range(I):
        others = np.delete(np.arange(I), j)
        x_BX = taken_BI[:, others]
        weights_II[others, j] = np.linalg.solve(x_BX.T @ x_BX + regularization * np.eye(I - 1), x_BX.T @ taken_BI[:, j])
    ranker = fit(Ease, data, regularization=regularization)
    assert ranker.matrix_II.dtype == np.float32
    np.testing.assert_allclose(ranker.matrix_II, weights_II, atol=1e-5)
    exact = replace(ranker, matrix_II=weights_II.round(9))
    check_ranking(exact, data, histories, lambda history: weights_II.round(9)[sorted(set(history))].sum(0))


def taken(data: Dataset) -> Float64:
    train, taken_BI = data.part("train"), np.zeros((data.num_users, I))
    taken_BI[train.owners(), train.items] = 1
    return taken_BI


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_history_gets_the_most_popular_items(method: type[Any], data: Dataset) -> None:
    ranker, nobody = fit(method, data), Sequences.from_lists([[]])
    assert ranker.rank(nobody, 5, True).tolist() == Popularity.fit(data).rank(nobody, 5, True).tolist()
    assert ranker.rank(Sequences.from_lists([]), 3, True).shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_ranking_does_not_depend_on_who_is_ranked_together(
    method: type[Any], shop: SyntheticShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker, histories = fit(method, shop), shop.part("train").take(np.arange(50))
    whole = ranker.rank(histories, 20, True)
    monkeypatch.setattr(module_of_ranking, "USERS_AT_ONCE", 7)
    assert np.array_equal(ranker.rank(histories, 20, True), whole)
    assert np.array_equal(ranker.rank(histories, 8, True), whole[:, :8])


def test_all_know_more_of_the_shop_than_popularity(shop: SyntheticShop) -> None:
    rankers: list[Ranker] = [Popularity.fit(shop)]
    rankers += [fit(method, shop) for method in METHODS]
    report = evaluate(rankers, shop, ks=(10,), protocol="filtered")
    popular, *others = (row.metrics["ndcg@10"] for row in report.rows)
    assert min(others) > 1.5 * popular


@pytest.mark.parametrize("method", METHODS)
def test_the_part_decides_what_is_known(method: type[Any], data: Dataset) -> None:
    known, more = fit(method, data), fit(method, data, part="train+validation")
    assert (known.trained_on, more.trained_on) == ("train", "train+validation")
    one, other = (r.matrix_II if method is Ease else r.matrix_II.toarray() for r in (known, more))
    assert not np.array_equal(one, other)


def test_a_catalog_that_is_too_large_for_ease_is_refused(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3,600,240,004 bytes"):
        module_of_ease._check_size(30_001)
    monkeypatch.setattr(module_of_ease, "MOST_ITEMS", I - 1)
    with pytest.raises(InputError, match="the limit is 13 items"):
        fit(Ease, data)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (TransitionsConfig, {"second_weight": -1.0}),
        (TransitionsConfig, {"part": "all"}),
        (ItemKNNConfig, {"neighbors": 0}),
        (ItemKNNConfig, {"shrink": float("nan")}),
        (ItemKNNConfig, {"decay": 0.0}),
        (ItemKNNConfig, {"part": "test"}),
        (EaseConfig, {"regularization": 0.0}),
        (EaseConfig, {"part": ""}),
    ],
)
def test_settings_out_of_range_are_refused(config: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        config(**wrong)
