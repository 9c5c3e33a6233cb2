"""Item views: which data they use and ignore, and vectors of unseen items."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import Dataset, ItemCatalog, ItemViews, Sequences, ViewConfig, load_dataset, synthetic_shop
from reg4rec.data.collaborative_view import cooccurrence, positive_pmi
from reg4rec.data.text_view import TextView
from reg4rec.errors import InputError


@pytest.fixture(scope="module")
def shop() -> Dataset:
    base = synthetic_shop(num_users=120, num_items=60, seed=1)
    image = np.random.default_rng(0).normal(size=(60, 5))
    return Dataset.build(base.name, base.user_ids, base.sequences, base.items, {"image": image})


@pytest.fixture(scope="module")
def views(shop: Dataset) -> ItemViews:
    return ItemViews.fit(shop, ViewConfig(text_dim=16, collaborative_dim=8, matrices=("image",)))


def test_every_view_is_a_block_of_unit_rows(views: ItemViews) -> None:
    assert views.widths == {"text": 16, "collaborative": 8, "matrix:image": 5}
    assert (views.vectors_IV.dtype, views.dim) == (np.float32, 29)
    for block in np.split(views.vectors_IV, [16, 24], axis=1):
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1, atol=1e-5)


def test_items_of_equal_facets_are_near_in_text(shop: Dataset, views: ItemViews) -> None:
    text = views.vectors_IV[:, :16]
    titles = [set(title.split()) for title in shop.items.texts(("title",))]
    shared = np.array([[len(a & b) for b in titles] for a in titles])
    similar = text @ text.T
    assert similar[shared == 3].mean() > 0.3 + similar[shared == 1].mean()


def test_same_seed_same_vectors(shop: Dataset, views: ItemViews) -> None:
    again = ItemViews.fit(shop, views.config, seed=0)
    np.testing.assert_allclose(again.vectors_IV, views.vectors_IV, atol=1e-6)


def test_held_back_interactions_do_not_show(shop: Dataset, views: ItemViews) -> None:
    items = shop.sequences.items.copy()
    ends = shop.sequences.offsets[1:]
    items[ends - 1], items[ends - 2] = 0, 1
    changed = Dataset.build(
        shop.name, shop.user_ids, Sequences(shop.sequences.offsets, items), shop.items, shop.vectors
    )
    again = ItemViews.fit(changed, views.config)
    np.testing.assert_allclose(again.vectors_IV, views.vectors_IV, atol=1e-6)
    later = ItemViews.fit(changed, views.config, part="train+validation")
    assert not np.allclose(later.vectors_IV[:, 16:24], views.vectors_IV[:, 16:24], atol=1e-3)


def test_unseen_items_get_the_collaborative_view_of_items_like_them(shop: Dataset, views: ItemViews) -> None:
    table = shop.items.table.slice(10, 4)
    unseen = views.transform(table, {"image": shop.vectors["image"][10:14]})
    fitted = views.vectors_IV[10:14]
    assert np.array_equal(unseen[:, :16], fitted[:, :16])
    assert np.array_equal(unseen[:, 24:], fitted[:, 24:])
    others = np.delete(views.vectors_IV, np.s_[16:24], axis=1)
    cosine = np.maximum(others[10:14] @ others.T / 2, 0)
    for row, expected in zip(cosine, unseen[:, 16:24], strict=True):
        near = np.argsort(-row)[:20]
        mean = (row[near, None] ** 8 * views.vectors_IV[near, 16:24]).sum(0)
        np.testing.assert_allclose(expected, mean / np.linalg.norm(mean), atol=1e-5)
    unknown = pa.table({"title": ["entirely new words"], "brand": [None], "categories": [None]})
    assert not views.transform(unknown, {"image": np.zeros((1, 5))}).any()
    assert views.transform(table.slice(0, 0), {"image": np.ones((0, 5))}).shape == (0, 29)


def test_items_without_interactions_do_not_count_in_expectations() -> None:
    """Of the items called `red`, only those that were bought count."""
    items = {"item_id": [*"abcdef"], "title": ["red hat", "red shoe", "red bag", "blue hat", "blue shoe", "blue bag"]}
    data = Dataset.build(
        "six", pa.array(["u", "v"]), Sequences.from_lists([[0, 3], [3, 0]]), ItemCatalog.from_table(pa.table(items))
    )
    views = ItemViews.fit(data, ViewConfig(text_dim=4, collaborative_dim=2, text_columns=("title",)))
    values = np.array([[1], [9], [9], [5], [9], [9]], dtype=np.float32)
    red, blue, other = views.expected(views.transform(pa.table({"title": ["red", "blue", "green"]})), values)
    assert 1 <= red < 3 < blue <= 5
    assert other == 0


def test_without_a_collaborative_view_all_items_count_in_expectations(shop: Dataset) -> None:
    views = ItemViews.fit(shop, ViewConfig(text_dim=16, collaborative_dim=0))
    again = views.transform(shop.items.table)
    np.testing.assert_array_equal(again, views.vectors_IV)
    level = np.ones((60, 3), dtype=np.float32)
    np.testing.assert_allclose(views.expected(again[:4], level), 1, atol=1e-6)


def test_nothing_is_expected_of_items_without_other_views(shop: Dataset) -> None:
    views = ItemViews.fit(shop, ViewConfig(text_dim=0, collaborative_dim=8))
    assert not views.transform(shop.items.table.slice(0, 4)).any()


def test_saved_views_transform_exactly_alike(shop: Dataset, views: ItemViews, tmp_path: Path) -> None:
    views.save(tmp_path / "views")
    loaded = ItemViews.load(tmp_path / "views")
    assert (loaded.config, loaded.widths, loaded.card) == (views.config, views.widths, views.card)
    assert np.array_equal(loaded.vectors_IV, views.vectors_IV)
    expected = views.transform(shop.items.table, shop.vectors)
    assert np.array_equal(loaded.transform(shop.items.table, shop.vectors), expected)
    (tmp_path / "views" / "vocabulary.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="missing"):
        ItemViews.load(tmp_path / "views")


def test_nothing_is_pickled(views: ItemViews, tmp_path: Path) -> None:
    views.save(tmp_path / "views")
    assert {path.suffix for path in (tmp_path / "views").iterdir()} == {".json", ".parquet", ".safetensors"}


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "'image'"),
        ({"image": np.ones((60, 4))}, "4 columns where 5"),
        ({"image": np.ones((2, 5))}, "shape"),
        ({"image": np.full((60, 5), np.nan)}, "NaN"),
    ],
)
def test_bad_matrices_are_refused(shop: Dataset, views: ItemViews, vectors: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        views.transform(shop.items.table, vectors)


def tiny(**columns: Any) -> Dataset:
    items = ItemCatalog.from_table(pa.table({"item_id": [1, 2, 3], **columns}))
    return Dataset.build("tiny", pa.array([1]), Sequences.from_lists([[0, 1, 2, 0, 1]]), items)


def test_empty_views_are_left_out_with_a_reason() -> None:
    views = ItemViews.fit(tiny())
    assert list(views.widths) == ["collaborative"]
    assert "distinctive term" in views.card["left_out"]["text"]
    with pytest.raises(InputError, match="all views are empty"):
        ItemViews.fit(tiny(), ViewConfig(collaborative_dim=0))
    with pytest.raises(InputError, match="no matrix 'image'; it has none"):
        ItemViews.fit(tiny(), ViewConfig(matrices=("image",)))


def test_items_without_training_neighbors_have_a_zero_row() -> None:
    views = ItemViews.fit(tiny(), ViewConfig(text_dim=0))
    norms = np.linalg.norm(views.vectors_IV, axis=1)
    assert views.dim <= 3
    assert set(np.round(norms, 5)) <= {0.0, 1.0}


def test_cooccurrence_counts_one_over_distance_inside_a_user() -> None:
    counts = cooccurrence(Sequences.from_lists([[0, 1, 2], [2, 2, 0]]), 4).toarray()
    expected = np.zeros((4, 4))
    for a, b, weight in ((0, 1, 1), (1, 2, 1), (0, 2, 0.5 + 1 + 0.5)):
        expected[a, b] = expected[b, a] = weight
    np.testing.assert_allclose(counts, expected)


def test_positive_pmi_of_a_small_matrix() -> None:
    from scipy.sparse import csr_array

    found = positive_pmi(csr_array(np.array([[0.0, 4.0], [4.0, 0.0]]))).toarray()
    np.testing.assert_allclose(found, [[0, np.log(2)], [np.log(2), 0]], rtol=1e-6)


@pytest.mark.skipif(not os.environ.get("REG4REC_DATA"), reason="REG4REC_DATA names no folder of datasets")
def test_beauty_takes_seconds() -> None:
    beauty = load_dataset("amazon2014-beauty")
    began = time.process_time()
    views = ItemViews.fit(beauty)
    assert time.process_time() - began < 50  # cores times seconds
    assert views.vectors_IV.shape == (12101, 192)
    assert np.isfinite(views.vectors_IV).all()


@pytest.mark.parametrize("texts", [["", ""], ["red", "red"]], ids=["no term", "one term"])
def test_texts_without_information_make_no_view(texts: list[str]) -> None:
    assert TextView.fit(texts, 8, 0) is None
