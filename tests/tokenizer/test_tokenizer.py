"""The fitted tokenizer: tokens for new items, and the folder on disk."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.storage import read_tensors, write_tensors
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import reseal


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_what_is_loaded_equals_what_was_saved(tokenizer: Tokenizer, folder: Path) -> None:
    loaded = Tokenizer.from_pretrained(folder)
    assert loaded.config == tokenizer.config
    assert loaded.health == tokenizer.health
    assert loaded.card == tokenizer.card
    assert torch.equal(loaded.codes_IM, tokenizer.codes_IM)
    assert torch.equal(loaded.quantized_IE, tokenizer.quantized_IE)
    vectors_IV = tokenizer.views.vectors_IV
    assert torch.equal(loaded.encode(vectors_IV), tokenizer.encode(vectors_IV))
    assert loaded.describe() == tokenizer.describe()


def test_most_items_encode_to_their_own_tokens(tokenizer: Tokenizer) -> None:
    codes_IM = tokenizer.encode(tokenizer.views.vectors_IV)
    moved = (codes_IM != tokenizer.codes_IM).any(1).double().mean()
    assert float(moved) == pytest.approx(tokenizer.health.moved_rate)


def test_unseen_items_get_tokens_of_items_like_them(tokenizer: Tokenizer, shop: Dataset) -> None:
    table = shop.items.table.slice(0, 40)
    codes_BM = tokenizer.encode_items(table)
    assert codes_BM.shape == (40, 3)
    assert codes_BM.dtype == torch.int32
    own = (codes_BM == tokenizer.codes_IM[:40]).double().mean()
    others = (codes_BM == tokenizer.codes_IM[100:140]).double().mean()
    assert own > 2 * others
    assert tokenizer.encode_items(table.slice(0, 0)).shape == (0, 3)


def test_unseen_items_need_the_columns_of_the_views(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="title"):
        tokenizer.encode_items(pa.table({"item_id": ["new"]}))


def test_wrong_vectors_are_refused(tokenizer: Tokenizer) -> None:
    width = tokenizer.views.dim
    with pytest.raises(InputError, match=rf"\(n, {width}\)"):
        tokenizer.encode(np.zeros((2, width + 1)))
    with pytest.raises(InputError, match="finite"):
        tokenizer.encode(np.full((2, width), np.nan))


def test_quantized_is_the_gated_sum_of_the_items_codewords(tokenizer: Tokenizer) -> None:
    vectors_IV = torch.from_numpy(tokenizer.views.vectors_IV)
    gate_IM = tokenizer.quantizer.gate(vectors_IV).detach()
    books_MKE, codes_IM = tokenizer.quantizer.codebooks_MKE.detach(), tokenizer.codes_IM.long()
    for item in (0, 7, 199):
        parts = [gate_IM[item, m] * books_MKE[m, codes_IM[item, m]] for m in range(3)]
        torch.testing.assert_close(tokenizer.quantized_IE[item], torch.stack(parts).sum(0))


def test_describe_shows_sizes_and_health(tokenizer: Tokenizer) -> None:
    text = tokenizer.describe()
    for words in ("200 items", "3 tokens each of 16", "usage", "collisions", "similarity"):
        assert words in text


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "health.json", "tokens.safetensors", "mpq.safetensors", "views/vectors.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_files_are_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(InputError, match=path.name):
        Tokenizer.from_pretrained(folder)


def test_files_that_do_not_fit_together_are_named(folder: Path) -> None:
    tokens = read_tensors(folder / "tokens.safetensors")
    for wrong, words in (
        ({"codes_IM": tokens["codes_IM"].long()}, "torch.int64"),
        ({"codes_IM": tokens["codes_IM"][:-1]}, "199"),
        ({"codes_IM": tokens["codes_IM"] + 1}, "outside 0 to 15"),
    ):
        write_tensors(folder / "tokens.safetensors", tokens | wrong)
        reseal(folder / "tokenizer.json")
        with pytest.raises(InputError, match=words):
            Tokenizer.from_pretrained(folder)


def test_weights_of_another_size_are_named(folder: Path) -> None:
    header = json.loads((folder / "tokenizer.json").read_text())
    header["config"]["hidden_dim"] = 33
    reseal(folder / "tokenizer.json", header)
    with pytest.raises(InputError, match="decoder_in_EH"):
        Tokenizer.from_pretrained(folder)


def test_an_incomplete_header_is_named(folder: Path) -> None:
    header = json.loads((folder / "tokenizer.json").read_text())
    del header["config"]["floors"]
    reseal(folder / "tokenizer.json", header)
    with pytest.raises(InputError, match="floors"):
        Tokenizer.from_pretrained(folder)
