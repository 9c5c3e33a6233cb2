"""Histories of the shop, and a saved recommender to read and to break."""

import shutil
from pathlib import Path

import pytest

from reg4rec.data.shop import SyntheticShop
from reg4rec.infer import Recommender


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
