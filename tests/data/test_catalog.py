"""Item catalogs: ids, categories, text."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError


def make_catalog(ids: list[Any], **columns: Any) -> ItemCatalog:
    return ItemCatalog.from_table(pa.table({"item_id": ids, **columns}))


@pytest.mark.parametrize("ids", [[7, 3, 5], ["b", "a", "c"]])
def test_ids_lead_to_rows_and_unknown_ones_to_minus_one(ids: list[Any]) -> None:
    catalog = make_catalog(ids)
    unknown: Any = 99 if isinstance(ids[0], int) else "zzz"
    rows = catalog.rows([ids[2], unknown, ids[0]])
    assert rows.tolist() == [2, -1, 0]
    assert rows.dtype == np.int32
    assert catalog.rows([]).tolist() == []
    assert catalog.rows(pa.chunked_array([[ids[1]], [ids[1]]])).tolist() == [1, 1]


def test_ids_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="int64"):
        make_catalog([1, 2]).rows(["shoe"])


@pytest.mark.parametrize(
    ("ids", "message"), [([1, None], "1 of 2 items have no item_id"), (["a", "b", "a"], "'a' is in several rows")]
)
def test_bad_ids_are_refused(ids: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_catalog(ids)


def test_category_level_is_the_shallowest_with_thirty_classes() -> None:
    paths = [["root", f"mid{i % 30}", f"leaf{i}"] for i in range(60)]
    catalog = make_catalog(list(range(60)), categories=paths)
    assert catalog.category_level == 2
    assert len(catalog.category_names) == 30
    assert catalog.category_names[1] == "root > mid1"
    assert catalog.categories_I[31] == catalog.categories_I[1] == 1


def test_short_paths_are_kept_and_missing_ones_are_minus_one() -> None:
    catalog = make_catalog([1, 2, 3, 4], categories=[["a", "b"], ["a"], None, []])
    assert catalog.category_level == 2
    assert catalog.category_names == ["a > b", "a"]
    assert catalog.categories_I.tolist() == [0, 1, -1, -1]
    assert make_catalog([1]).category_level == 0


def test_texts_join_what_is_there() -> None:
    catalog = make_catalog([1, 2], title=["Red shoe", None], categories=[["A", "B"], None], year=[1999, None])
    assert catalog.texts(("title", "brand", "categories", "year")) == ["Red shoe A B 1999", ""]
    with pytest.raises(InputError, match="color"):
        catalog.texts(("color",))


def test_saved_catalog_comes_back(tmp_path: Path) -> None:
    catalog = make_catalog(["x", "y"], title=["t", None], categories=[["a", "b"], ["a", "c"]], price=[1.5, 2.0])
    catalog.save(tmp_path / "items.parquet")
    loaded = ItemCatalog.load(tmp_path / "items.parquet", category_level=1)
    assert loaded.table.to_pylist() == catalog.table.to_pylist()
    assert loaded.category_names == ["a"]
    with pytest.raises(InputError, match="missing"):
        ItemCatalog.load(tmp_path / "other.parquet")


def test_a_gap_in_a_category_path_is_named() -> None:
    paths = pa.array([None, ["toys", "cars"], [], ["toys", None]], pa.list_(pa.string()))
    with pytest.raises(InputError, match=r"the categories of item 8 are \['toys', None\]; replace or remove the null"):
        make_catalog([5, 6, 7, 8], categories=paths)
    assert make_catalog([5, 6, 7], categories=paths[:3]).category_names == ["toys > cars"]
