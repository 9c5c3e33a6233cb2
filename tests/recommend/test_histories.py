"""Histories as users may pass them: many forms, unknown and repeated items, their own ids."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import of_any_items
from tests.lists import check_lists


def test_unknown_items_are_skipped_with_one_warning(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"3 of 5 history items are not in the catalog and were skipped") as caught:
        table = recommender.recommend([["item1", "gone", "item2"], ["gone", "lost"]], k=4, to="polars")
    assert len(caught) == 1
    assert "'gone', 'gone', 'lost'" in str(caught[0].message)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="2 of 4"):
        shifted = recommender.recommend([["gone", "item1"], ["item2"], ["lost"]], k=4, to="polars")
    assert_frame_equal(shifted, recommender.recommend([["item1"], ["item2"], []], k=4, to="polars"))
    assert_frame_equal(table, recommender.recommend([["item1", "item2"], []], k=4, to="polars"))


def test_a_history_longer_than_the_model_reads_is_cut_but_all_of_it_is_seen(
    recommender: Recommender, model: Reg4RecModel
) -> None:
    """Items that the model no longer reads still count as seen: they are left out, or have the repeat bias."""
    window = model.config.max_history
    long = [f"item{i}" for i in range(window + 15)]
    table = recommender.recommend([long], k=60, to="polars")
    assert not set(table["item_id"]) & set(long)
    read, forgotten = long[-window:], long[:-window]
    newest = recommender.recommend([read], k=10, filter_seen=False, exclude=forgotten, to="polars")
    assert_frame_equal(newest, recommender.recommend([long], k=10, filter_seen=False, exclude=forgotten, to="polars"))


def test_repeated_items_in_a_history_are_no_error(recommender: Recommender) -> None:
    table = recommender.recommend([["item4"] * 7 + ["item5"]], k=58, to="polars")
    check_lists(table, {0: ["item4", "item5"]}, 58, set(recommender.items.ids.to_pylist()))


@pytest.mark.parametrize(
    "form",
    [
        lambda users, lists: dict(zip(users, lists, strict=True)),
        lambda users, lists: pl.DataFrame(
            {"user_id": users, "items": lists}, schema_overrides={"items": pl.List(pl.String)}
        ),
        lambda users, lists: pa.table({"user_id": users, "items": pa.array(lists, pa.list_(pa.string()))}),
        lambda users, lists: pa.table(
            {"items": pa.array(lists, pa.large_list(pa.large_string())), "user_id": users, "more": users}
        ),
        lambda users, lists: {u: tuple(x) for u, x in zip(users, lists, strict=True)},
        lambda users, lists: {u: np.array(x, dtype=object) for u, x in zip(users, lists, strict=True)},
    ],
    ids=["mapping", "polars", "arrow", "large arrow", "tuples", "numpy"],
)
def test_histories_come_in_many_forms(
    recommender: Recommender, form: Callable[[list[str], list[list[str]]], Any], histories: dict[str, list[str]]
) -> None:
    expected = recommender.recommend(list(histories.values()), k=5, to="polars")
    assert expected["user_id"].unique(maintain_order=True).to_list() == list(range(31))
    table = recommender.recommend(form(list(histories), list(histories.values())), k=5, to="polars")
    assert_frame_equal(table.drop("user_id"), expected.drop("user_id"))
    assert table["user_id"].unique(maintain_order=True).to_list() == list(histories)


@pytest.mark.parametrize(
    "form",
    [
        lambda lists: pa.array(lists, pa.list_(pa.string())),
        lambda lists: pa.chunked_array([lists[:7], lists[7:]], pa.large_list(pa.string())),
        lambda lists: pl.Series(lists, dtype=pl.List(pl.String)),
        lambda lists: pl.Series(lists, dtype=pl.List(pl.Categorical)),
    ],
    ids=["arrow", "chunked arrow", "polars", "categorical polars"],
)
def test_histories_without_users_are_numbered(
    recommender: Recommender, form: Callable[[list[list[str]]], Any], histories: dict[str, list[str]]
) -> None:
    lists = list(histories.values())
    assert_frame_equal(
        recommender.recommend(form(lists), k=5, to="polars"), recommender.recommend(lists, k=5, to="polars")
    )


def test_a_row_a_click_makes_histories(recommender: Recommender) -> None:
    clicks = {"user_id": ["v", "u", "v", "u"], "item_id": ["item3", "item2", "item9", "item1"]}
    expected = recommender.recommend({"v": ["item3", "item9"], "u": ["item2", "item1"]}, k=3, to="polars")
    assert_frame_equal(recommender.recommend(pa.table(clicks), k=3, to="polars"), expected)
    timed = pl.DataFrame(clicks | {"timestamp": [1, 9, 2, 3]})
    expected = recommender.recommend({"v": ["item3", "item9"], "u": ["item1", "item2"]}, k=3, to="polars")
    assert_frame_equal(recommender.recommend(timed, k=3, to="polars"), expected)
    moments = timed.with_columns(pl.from_epoch("timestamp"), pl.col("user_id").cast(pl.Categorical))
    assert_frame_equal(recommender.recommend(moments, k=3, to="polars").drop("user_id"), expected.drop("user_id"))


def test_histories_of_pandas(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    pd = pytest.importorskip("pandas")
    users, lists = list(histories), list(histories.values())
    expected = recommender.recommend(histories, k=3, to="polars")
    frame = pd.DataFrame({"user_id": users, "items": lists})
    assert_frame_equal(recommender.recommend(frame, k=3, to="polars"), expected)
    series = recommender.recommend(pd.Series(lists), k=3, to="polars")
    assert_frame_equal(series.drop("user_id"), expected.drop("user_id"))
    rows = frame[:-1].explode("items").rename(columns={"items": "item_id"})  # the last has no history
    assert_frame_equal(recommender.recommend(rows, k=3, to="polars"), expected.filter(pl.col("user_id") != users[-1]))


def test_a_matrix_of_a_catalog_with_negative_ids_is_refused(
    recommender: Recommender, model: Reg4RecModel, tokenizer: Tokenizer
) -> None:
    table = recommender.items.table.set_column(0, "item_id", pa.array(np.arange(60) - 3))
    negative = Recommender(of_any_items(model), tokenizer, ItemCatalog.from_table(table), device="cpu")
    with pytest.raises(
        InputError, match=r"the catalog has negative ids such as -3; give one list of ids for each user"
    ):
        negative.recommend(np.array([[-3, -2, -1]]))
    assert len(negative.recommend([[-3, -2, -1]], k=4)) == 4


def test_ids_of_histories_are_compared_as_they_are_spelled(numbered: Recommender) -> None:
    with pytest.warns(UserWarning, match="1 of 1 history items .* '01010'"):
        unknown = numbered.recommend([["01010"]], k=4, to="polars")
    assert_frame_equal(unknown, numbered.recommend([[]], k=4, to="polars"))
    expected = numbered.recommend([[1010]], k=4, to="polars")
    assert_frame_equal(numbered.recommend([["1010"]], k=4, to="polars"), expected)


def test_a_table_without_users_is_numbered_and_a_missing_history_is_empty(recommender: Recommender) -> None:
    table = recommender.recommend(pl.DataFrame({"items": [["item3"], None]}), k=2, to="polars")
    assert_frame_equal(table, recommender.recommend([["item3"], []], k=2, to="polars"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["item1", "item2"], "one list for each user"),
        ("item1", "found str"),
        (7, "found int"),
        (np.array([[1, 2]]), "contains item ids, but those of the catalog are string; give lists"),
        (np.array([1, 2]), r"integers, found \(2,\) int64"),
        (torch.ones(2, 3), r"integers, found \(2, 3\) float32"),
        ({"u": [], 3: []}, "user ids must be of one type"),
        (pl.DataFrame({"user_id": ["u", None], "item_id": ["item1", "item2"]}), "no user_id or no item_id"),
        (
            pl.DataFrame({"user_id": ["u"], "item_id": ["item1"], "timestamp": ["now"]}),
            "timestamp of the histories is .*string with 0 missing values; give numbers, dates or timestamps",
        ),
        ([3, 4], "must be a list of item ids"),
        ({"u": "item1"}, "must be a list of item ids"),
        (pl.DataFrame({"items": ["item1", "item2"]}), "must be a list of item ids"),
        (pl.DataFrame({"history": [["item1"]]}), r"needs a column 'items', or .*; found \['history'\]"),
    ],
)
def test_other_forms_of_histories_are_refused(recommender: Recommender, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recommender.recommend(wrong, to="polars")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, torch.int64, torch.int32])
def test_a_matrix_holds_ids_and_negative_padding(numbered: Recommender, kind: Any) -> None:
    """Of any integer type, padded on either side; torch comes through DLPack as CuPy does."""
    lists = [[1010, 1000, 1050], [], [1200]]
    expected = numbered.recommend(lists, k=5, to="polars")
    rows = [[1010, 1000, 1050], [-1, -1, -1], [-1, 1200, -1]]
    if kind is np.uint16:
        rows, expected = rows[:1], numbered.recommend(lists[:1], k=5, to="polars")
    matrix = torch.tensor(rows, dtype=kind) if isinstance(kind, torch.dtype) else np.array(rows, dtype=kind)
    assert_frame_equal(numbered.recommend(matrix, k=5, to="polars"), expected)


def test_integer_ids_come_back_as_integers(
    recommender: Recommender, numbered: Recommender, histories: dict[str, list[str]]
) -> None:
    number_of = dict(zip(recommender.items.ids.to_pylist(), numbered.items.ids.to_pylist(), strict=True))
    found = numbered.recommend(
        {9: [number_of[item] for item in histories["user0"]]}, k=5, exclude=[1000, 1010], to="polars"
    )
    expected = recommender.recommend({9: histories["user0"]}, k=5, exclude=["item0", "item1"], to="polars")
    assert found["user_id"].dtype == found["item_id"].dtype == pl.Int64
    assert found["item_id"].to_list() == [number_of[item] for item in expected["item_id"]]
    with pytest.warns(UserWarning, match="1 of 1 history items"):
        numbered.recommend([[5]], to="polars")
