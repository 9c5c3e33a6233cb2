"""Histories of the shop, and a saved recommender to read and to break."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.data import ItemCatalog
from reg4rec.data.shop import SyntheticShop
from reg4rec.infer import Recommender
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import of_any_items


@pytest.fixture(scope="module")
def histories(shop: SyntheticShop) -> dict[str, list[str]]:
    """Thirty users of the shop and one without a history."""
    ids = shop.items.ids.to_pylist()
    return {f"user{u}": [ids[i] for i in shop.sequences[u]] for u in range(30)} | {"new": []}


@pytest.fixture(scope="module")
def saved(recommender: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "recommender"
    recommender.save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "damaged"))


@pytest.fixture
def numbered(recommender: Recommender, model: Reg4RecModel, tokenizer: Tokenizer) -> Recommender:
    """The same recommender of items whose ids are 1000, 1010 and so on."""
    table = recommender.items.table.set_column(0, "item_id", pa.array(np.arange(60) * 10 + 1000))
    catalog, search = ItemCatalog.from_table(table), asdict(recommender.config)
    return Recommender(of_any_items(model), tokenizer, catalog, recommender.popularity_I, device="cpu", **search)
