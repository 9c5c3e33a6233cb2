"""Measures of lists against a count by hand; groups of targets, errors and ranks in a report."""

from itertools import combinations, permutations

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import Dataset, ItemCatalog, Sequences
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.evaluation.lists import ListMeasures, item_vectors
from reg4rec.statistics import error_of_mean

LISTS = [[0, 1, 2, -1], [1, 3, -1, -1], [4, -1, -1, -1], [-1] * 4]


def catalog_of(categories: list[list[str] | None]) -> ItemCatalog:
    return ItemCatalog.from_table(pa.table({"item_id": list(range(len(categories))), "categories": categories}))


@pytest.fixture(scope="module")
def data() -> Dataset:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(6, 3)).astype(np.float32)
    vectors[2] = 0
    items = catalog_of([["A"], ["A"], ["B"], None, ["B"], ["C"]])
    sequences = Sequences.from_lists([[0, 1, 2, 3], [1, 1, 0, 5], [1, 4]])
    return Dataset.build("tiny", pa.array(["a", "b", "c"]), sequences, items, {"image": vectors})


def test_measures_are_those_counted_by_hand(data: Dataset) -> None:
    measures = ListMeasures(data, (1, 4), True, item_vectors(data))
    for rows in (LISTS[:2], LISTS[2:]):
        measures.add(np.array(rows, dtype=np.int32))
    found = measures.values()
    assert (found["coverage@1"], found["coverage@4"]) == (3 / 6, 5 / 6)
    shared = [len(set(a) & set(b)) for a, b in permutations([[i for i in row if i >= 0] for row in LISTS], 2)]
    assert found["overlap@4"] == pytest.approx(np.sum(shared) / (3 * 6))  # each list meets 3 others; 6 items in all

    lists = [[item for item in row if item >= 0] for row in LISTS[:3]]
    count = np.bincount([0, 1, 1, 1, 1, 4], minlength=6)  # the training part: [:-2] of the two long ones, all of c
    assert found["popularity@4"] == pytest.approx(np.mean([count[row].mean() for row in lists]))
    surprise = -np.log2((count + 1) / (count.sum() + 6))
    assert found["novelty@4"] == pytest.approx(np.mean([surprise[row].mean() for row in lists]))

    category = data.items.categories_I
    known = [[item for item in row if category[item] >= 0] for row in lists]
    other = [np.mean([category[i] != category[j] for i, j in combinations(row, 2)]) for row in known if len(row) > 1]
    assert found["category_diversity@4"] == pytest.approx(np.mean(other))

    norm = np.linalg.norm(data.vectors["image"], axis=1, keepdims=True)
    unit = data.vectors["image"] / np.where(norm > 0, norm, 1)
    apart = [np.mean([1 - unit[i] @ unit[j] for i, j in combinations(row, 2)]) for row in lists if len(row) > 1]
    assert found["vector_diversity@4"] == pytest.approx(np.mean(apart), abs=1e-6)


def test_texts_give_vectors_where_no_matrix_is_there() -> None:
    titles = ["red shoe", "red boot", "blue boot", "blue shoe", "green hat", "green cap"]
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(6)), "title": titles}))
    data = Dataset.build("shop", pa.array([0]), Sequences.from_lists([[0, 1, 2]]), items)
    report = evaluate(Popularity.fit(data), data, ks=(3,), lists=True)
    assert 0 < report.rows[0].lists["vector_diversity@3"] <= 1
    assert "category_diversity@3" in report.rows[0].lists
    assert list(evaluate(Popularity.fit(data), data, ks=(3,)).rows[0].lists) == ["coverage@3", "overlap@3"]


def test_a_report_has_errors_ranks_and_groups_of_equal_times() -> None:
    draw = np.random.default_rng(1)
    rows = [draw.permutation(30)[:6].tolist() for _ in range(40)]
    times = np.sort(draw.integers(0, 4, (40, 6)), axis=1)
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(30))}))
    data = Dataset.build("timed", pa.array(range(40)), Sequences.from_lists(rows), items, times=times.flatten())
    report = evaluate(Popularity.fit(data), data, ks=(5, 10))
    (row,) = report.rows
    hits = row.ranks_B < 10
    assert row.metrics["recall@10"] == hits.mean()
    assert row.errors["recall@10"] == pytest.approx(error_of_mean(hits.astype(float)))
    assert row.metrics["mrr@5"] == pytest.approx(np.where(row.ranks_B < 5, 1 / (1 + row.ranks_B), 0).mean())
    tied = times[:, 5] == times[:, 4]
    first, second = row.groups.values()
    assert list(report.card["groups"].values()) == [tied.sum(), (~tied).sum()]
    assert (first["recall@10"], second["recall@10"]) == (hits[tied].mean(), hits[~tied].mean())
    assert f"of {tied.sum()} targets at the time of the item before" in report.table()
    assert "ranks_B" not in report.as_dict()["rows"][0]

    every = evaluate(Popularity.fit(data), data.with_time_split(2, 3, "timestamp", "all"), ks=(10,))
    counted = sum(int(np.sum((row >= 3)[1:])) for row in times)
    assert every.card["targets"] == counted
    assert every.card["users"] < counted
    assert f"{counted} targets" in every.table()
