"""Items come and go: the answers are those of a recommender built from scratch, and nothing else changes."""

from dataclasses import asdict, replace
from pathlib import Path
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


def new_items(recommender: Recommender) -> pa.Table:
    """Ten items that read like known ones."""
    table = recommender.items.table.slice(5, 10)
    return table.set_column(0, "item_id", pa.array([f"new{i}" for i in range(10)]))


@pytest.fixture
def changing(recommender: Recommender) -> Recommender:
    return recommender.with_search(num_beams=30)


def from_scratch(recommender: Recommender, table: pa.Table) -> Recommender:
    """All items, known and new, in one catalog, with the expected residual for the new ones."""
    tokenizer, model = recommender.tokenizer, recommender.model
    vectors_TV = tokenizer.views.transform(table)
    codes_TM, mixed_TE = tokenizer.quantizer.encode(torch.from_numpy(vectors_TV))
    tokenizer = replace(
        tokenizer,
        codes_IM=torch.cat([tokenizer.codes_IM, codes_TM.int()]),
        quantized_IE=torch.cat([tokenizer.quantized_IE, mixed_TE.detach()]),
        views=replace(tokenizer.views, vectors_IV=np.vstack([tokenizer.views.vectors_IV, vectors_TV])),
    )
    weights = dict(model.state_dict())
    expected_TD = recommender.tokenizer.views.expected(vectors_TV, weights["residual_ID"].numpy())
    weights["residual_ID"] = torch.cat([weights["residual_ID"], torch.from_numpy(expected_TD)])
    larger = Reg4RecModel(replace(model.config, num_items=model.config.num_items + len(table)))
    larger.load_state_dict(weights)
    items = ItemCatalog.from_table(pa.concat_tables([recommender.items.table, table]))
    popularity = np.append(recommender.live.popularity_I.numpy(), np.zeros(len(table), dtype=int))
    return Recommender(larger, tokenizer, items, popularity, device="cpu", **asdict(recommender.config))


def test_added_items_are_recommended_as_if_built_from_scratch(
    recommender: Recommender, changing: Recommender, histories: dict[str, list[str]], tmp_path: Path
) -> None:
    table = new_items(recommender)
    changing.add_items(table.slice(0, 4))
    changing.add_items(pl.DataFrame(pl.from_arrow(table.slice(4))))
    expected = from_scratch(recommender.with_search(num_beams=30), table)
    for ours, theirs in zip(changing.index, expected.index, strict=True):
        assert torch.equal(ours, theirs)
    users = histories | {"returning": ["new3", "item9"]}
    found = changing.recommend(users, k=12, to="polars")
    assert_frame_equal(found, expected.recommend(users, k=12, to="polars"))
    assert found["item_id"].str.starts_with("new").sum() > 20
    assert_frame_equal(
        changing.similar_items(["new2"], k=5, to="polars"), expected.similar_items(["new2"], k=5, to="polars")
    )
    changing.save_pretrained(tmp_path / "grown")
    assert_frame_equal(
        Recommender.from_pretrained(tmp_path / "grown", device="cpu").recommend(users, k=12, to="polars"), found
    )
    assert len(recommender.items) == len(recommender.codes_IM) == recommender.model.config.num_items == 60


def test_removed_items_are_gone_until_they_come_back(
    recommender: Recommender, changing: Recommender, histories: dict[str, list[str]], tmp_path: Path
) -> None:
    before = changing.recommend(histories, k=60, filter_seen=False, to="polars")
    gone = ["item3", "item7", "item31"]
    changing.remove_items(gone)
    found = changing.recommend(histories, k=60, filter_seen=False, to="polars")
    assert found.group_by("user_id").len()["len"].to_list() == [57] * 31
    assert not set(found["item_id"]) & set(gone)
    assert_frame_equal(
        changing.recommend(histories, k=5, to="polars"),
        recommender.with_search(num_beams=30).recommend(histories, k=5, exclude=gone, to="polars"),
    )
    assert changing.recommend([[]], k=60, candidates=["item3", "item4"], to="polars")["item_id"].to_list() == ["item4"]
    assert not set(changing.similar_items(["item3"], k=99, to="polars")["similar_item_id"]) & set(gone)
    changing.save_pretrained(tmp_path / "less")
    loaded = Recommender.from_pretrained(tmp_path / "less", device="cpu")
    assert_frame_equal(loaded.recommend(histories, k=60, filter_seen=False, to="polars"), found)
    loaded.add_items(recommender.items.table.take([31, 3, 7]))
    assert_frame_equal(loaded.recommend(histories, k=60, filter_seen=False, to="polars"), before)
    for ours, theirs in zip(loaded.index, recommender.index, strict=True):
        assert torch.equal(ours, theirs)


def test_models_without_item_scores_take_new_items_too(
    token_model: Reg4RecModel, tokenizer: Tokenizer, recommender: Recommender
) -> None:
    plain = Recommender(token_model, tokenizer, recommender.items, device="cpu")
    plain.add_items(new_items(recommender))
    plain.remove_items(["new1", "item2"])
    found = set(plain.recommend([["new4"]], k=99, to="polars")["item_id"])
    assert found == {*recommender.items.ids.to_pylist(), *(f"new{i}" for i in range(10))} - {"new1", "item2", "new4"}


def test_a_change_that_cannot_be_made_names_the_item_and_changes_nothing(
    recommender: Recommender, changing: Recommender
) -> None:
    new = new_items(recommender)
    changing.remove_items(["item8"])
    expected = changing.recommend([["item1"]], k=70, to="polars")
    collision = replace(changing.tokenizer, config=replace(changing.tokenizer.config, collision_token=True))
    for table, message in (
        (pa.concat_tables([new, new.slice(2, 1)]), "item_id 'new2' is in several rows"),
        (new.drop_columns(["item_id"]), "no column item_id"),
        (new.set_column(0, "item_id", pa.array([[1]] * 10)), "item ids are of type"),
    ):
        with pytest.raises(InputError, match=message):
            changing.add_items(table)
    with pytest.raises(InputError, match="item_ids must be a list of item ids, found 'item1'"):
        changing.remove_items("item1")
    assert_frame_equal(changing.recommend([["item1"]], k=70, to="polars"), expected)
    changing.live = replace(changing.live, tokenizer=collision)
    with pytest.raises(InputError, match="cannot take new items"):
        changing.add_items(new)


def test_a_whole_catalog_may_be_given_every_time(recommender: Recommender, changing: Recommender) -> None:
    whole = pa.concat_tables([recommender.items.table, new_items(recommender)])
    once = recommender.with_search(num_beams=30)
    assert once.add_items(new_items(recommender)) == 10
    assert changing.add_items(whole) == 10
    assert changing.items.table.equals(once.items.table)
    same = changing.codes_IM
    assert changing.add_items(whole) == 0
    assert changing.codes_IM is same
    assert changing.remove_items(["item8", "new3", "gone"]) == 2
    assert changing.remove_items(["item8", "new3", "item9"]) == 1
    assert changing.remove_items(["item8"]) == 0
    other = whole.set_column(1, "title", pa.array(["another"] * len(whole)))
    assert changing.add_items(other) == 3
    for ours, theirs in zip(changing.index, once.index, strict=True):
        assert torch.equal(ours, theirs)
    assert changing.recommend([["item1"]], k=70).equals(once.recommend([["item1"]], k=70))


def test_new_items_come_as_any_table_with_categories_as_text(recommender: Recommender) -> None:
    columns = {"item_id": ["new0", "new1"], "title": ["facet0value1 facet1value2", "facet0value3"]}
    columns["categories"] = ["facet0value1 > facet1value2", "['facet0value3']"]
    paths = [["facet0value1", "facet1value2"], ["facet0value3"]]
    expected = recommender.with_search()
    expected.add_items(pa.table(columns | {"categories": paths}))
    tables: list[Any] = [columns, pl.DataFrame(columns), pa.table(columns)]
    for table in tables:
        taken = recommender.with_search()
        taken.add_items(table)
        assert taken.items.table.equals(expected.items.table)
        assert torch.equal(taken.codes_IM, expected.codes_IM)
    with pytest.raises(InputError, match="give a pandas or polars DataFrame"):
        recommender.add_items(["new0"])


def test_a_column_with_the_look_of_categories_is_warned_of(recommender: Recommender) -> None:
    table = {"item_id": ["new0"], "title": ["facet0value1"], "category": ["facet0value1"]}
    with pytest.warns(UserWarning, match="a column category, which is not used; if it is their categories"):
        recommender.with_search().add_items(table)
