"""A recommender's folder: the same table after a reload, and what is damaged or foreign is named."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal

from reg4rec import ops
from reg4rec.cli.commands import trained_on
from reg4rec.data import ItemCatalog, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.storage import read_tensors, write_tensors
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import reseal
from tests.lists import items_by_user


def test_a_reload_gives_the_same_table(
    recommender: Recommender, histories: dict[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    expected = recommender.recommend(histories, k=12, to="polars")
    loaded = Recommender.from_pretrained(saved, device="cpu")
    assert loaded.config == recommender.config
    assert loaded.trained_on == "train"
    assert_frame_equal(loaded.recommend(histories, k=12, to="polars"), expected)

    other = loaded.with_search(prune_threshold=None, num_beams=7, num_steps=2)
    other.save_pretrained(tmp_path / "other")
    again = Recommender.from_pretrained(tmp_path / "other", device="cpu")
    assert again.config == other.config
    assert_frame_equal(again.recommend(histories, k=12, to="polars"), other.recommend(histories, k=12, to="polars"))


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_recommending_imports_neither_a_compiler_nor_what_training_needs(
    recommender: Recommender, histories: dict[str, list[str]], tmp_path: Path, retriever: str
) -> None:
    recommender.with_search(retriever=retriever).save_pretrained(tmp_path)
    code = f"""
import sys, reg4rec
rec = reg4rec.Recommender.from_pretrained({str(tmp_path)!r}, device="cpu")
print(rec.recommend({list(histories.values())[:2]}, return_paths=True).num_rows)
print({{"torch._dynamo", "sympy", "triton", "polars", "sklearn", "scipy"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20\nset()\n"


def test_a_large_index_is_stored_and_mapped(
    recommender: Recommender, histories: dict[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    assert not (saved / "index.safetensors").exists()
    large = recommender.with_search()
    index = ops.TokenIndex.build(large.codes_IM, large.model.config.codebook_size, pairs=True)
    large.live = replace(large.live, known_index=index)
    large.remove_items(large.items.ids[2:5].to_pylist())
    large.save_pretrained(tmp_path / "large")
    loaded = Recommender.from_pretrained(tmp_path / "large", device="cpu")
    assert loaded.index.lists_pairs
    assert all(map(torch.equal, loaded.index, large.index))
    assert_frame_equal(loaded.recommend(histories, k=12, to="polars"), large.recommend(histories, k=12, to="polars"))
    loaded.add_items(loaded.items.table.slice(2, 3))
    whole = ops.TokenIndex.build(large.codes_IM, large.model.config.codebook_size, pairs=True)
    assert all(map(torch.equal, loaded.index, whole))

    stored = read_tensors(tmp_path / "large" / "index.safetensors")
    for name, damaged in (
        ("postings", stored["postings"][1:]),
        ("pair_offsets", stored["pair_offsets"][:-1]),
        ("offsets", stored["offsets"] - 1),
        ("pair_postings", stored["pair_postings"] + 2**30),
        ("postings", -1 - stored["postings"]),
        ("pair_offsets", torch.cat([stored["pair_offsets"][:1] + 5, stored["pair_offsets"][1:]])),
    ):
        write_tensors(tmp_path / "large" / "index.safetensors", {**stored, name: damaged})
        reseal(tmp_path / "large" / "recommender.json")
        with pytest.raises(InputError, match="is not the index of these items"):
            Recommender.from_pretrained(tmp_path / "large", device="cpu")
    write_tensors(tmp_path / "large" / "index.safetensors", {"postings": stored["postings"]})
    with pytest.raises(InputError, match="'offsets'"):
        Recommender.from_pretrained(tmp_path / "large", device="cpu")


def test_another_process_gives_the_same_table(
    recommender: Recommender, histories: dict[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "histories.json").write_text(json.dumps(histories))
    code = (
        "import json, sys, reg4rec\n"
        "rec = reg4rec.Recommender.from_pretrained(sys.argv[1], device='cpu')\n"
        "histories = json.load(open(sys.argv[2] + '/histories.json'))\n"
        "rec.recommend(histories, k=8, to='polars').write_parquet(sys.argv[2] + '/found.parquet')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(saved), str(tmp_path)], env=environment, check=True)
    assert_frame_equal(pl.read_parquet(tmp_path / "found.parquet"), recommender.recommend(histories, k=8, to="polars"))


@pytest.mark.parametrize(
    "name",
    [
        "recommender.json",
        "model.json",
        "model.safetensors",
        "items.parquet",
        "items.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokens.safetensors",
        "tokenizer/mpq.safetensors",
    ],
)
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_folders_that_miss_a_part_are_named(damaged: Path, name: str, how: str) -> None:
    path = damaged / name
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    with pytest.raises(InputError, match=path.name.replace(".", r"\.")):
        Recommender.from_pretrained(damaged)


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"num_beams": 3.0}},
        {"search": {"wings": 2}},
        {"search": None},
        {"search": {"num_beams": 20, "num_spares": 4, "prune_threshold": -1.0}},
        {"search": {"num_steps": 0}},
        {"search": {"num_steps": 1.5}},
        {"search": {"num_steps": "2"}},
        {"version": 99},
        {"format": "reg4rec-dataset"},
    ],
    ids=str,
)
def test_headers_that_make_no_recommender_are_refused(damaged: Path, changes: dict[str, Any]) -> None:
    path = damaged / "recommender.json"
    reseal(path, changes)
    with pytest.raises(InputError):
        Recommender.from_pretrained(damaged)


def test_a_header_without_its_entries_is_refused(damaged: Path) -> None:
    header = json.loads((damaged / "recommender.json").read_text())
    for missing in ("search", "category_level", "trained_on"):
        reseal(damaged / "recommender.json", header, without=[missing])
        with pytest.raises(InputError, match=f"does not contain a complete recommender: '{missing}'"):
            Recommender.from_pretrained(damaged)


def test_a_folder_that_is_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recommender\.json is missing; is .* the right folder"):
        Recommender.from_pretrained(saved / "tokenizer")
    with pytest.raises(InputError, match="is missing"):
        Recommender.from_pretrained(tmp_path / "nowhere")


def test_parts_that_do_not_fit_together_are_refused(
    model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop, damaged: Path
) -> None:
    fewer = ItemCatalog.from_table(shop.items.table.slice(0, 50))
    with pytest.raises(InputError, match="fitted on 60 items, the catalog has 50"):
        Recommender(model, tokenizer, fewer, device="cpu")
    other = Reg4RecModel(ModelConfig(3, 8, 5, dim=16, num_heads=2, ffn_dim=16, num_blocks=1))
    with pytest.raises(InputError, match=r"trained for 3 codebooks of 8 codewords, the tokenizer has 3 of 16"):
        Recommender(other, tokenizer, shop.items, device="cpu")
    fewer_scored = Reg4RecModel(replace(model.config, num_items=59))
    with pytest.raises(InputError, match="the model scores 59 items, the catalog has 60"):
        Recommender(fewer_scored, tokenizer, shop.items, device="cpu")
    for wrong in (np.ones(59), np.ones(61), np.ones((60, 1))):
        with pytest.raises(InputError, match="popularity"):
            Recommender(model, tokenizer, shop.items, wrong, device="cpu")
    with pytest.raises(InputError, match="dtype must be auto"):
        Recommender(model, tokenizer, shop.items, device="cpu", dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no setting wings; its settings are num_beams, "):
        Recommender(model, tokenizer, shop.items, device="cpu", wings=2)
    short = {"popularity": torch.ones(7, dtype=torch.int64), "removed": torch.empty(0, dtype=torch.int64)}
    write_tensors(damaged / "items.safetensors", short)
    reseal(damaged / "recommender.json")
    with pytest.raises(InputError, match="popularity"):
        Recommender.from_pretrained(damaged)


def test_half_precision_on_the_cpu_recommends_much_the_same(
    recommender: Recommender, saved: Path, histories: dict[str, list[str]]
) -> None:
    half = Recommender.from_pretrained(saved, device="cpu", dtype="bfloat16").with_search(prune_threshold=None)
    found = items_by_user(half.recommend(histories, k=10, to="polars"))
    expected = items_by_user(recommender.with_search(prune_threshold=None).recommend(histories, k=10, to="polars"))
    shared = [len(set(found[user]) & set(expected[user])) for user in histories]
    assert sum(shared) > 8 * len(shared)


def test_a_model_of_other_interactions_is_warned_of(shop: SyntheticShop, saved: Path, tmp_path: Path) -> None:
    """It may have seen items that another split holds back."""
    shop.save(tmp_path / "own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained_on(saved, str(tmp_path / "own"), "cpu")
    synthetic_shop(num_users=20, num_items=60).save(tmp_path / "other")
    with pytest.warns(UserWarning, match="trained on other interactions or another split than .*other"):
        trained_on(saved, str(tmp_path / "other"), "cpu")


def test_files_of_another_fit_are_refused(
    damaged: Path, model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop
) -> None:
    """Files of the same sizes, as after an interrupted copy: without a check they would give wrong recommendations."""
    generator = torch.Generator().manual_seed(1)
    shuffled_IM = tokenizer.codes_IM[torch.randperm(60, generator=generator)]
    other = replace(tokenizer, codes_IM=shuffled_IM)
    turned = ItemCatalog.from_table(shop.items.table.take(list(range(59, -1, -1))), shop.items.category_level)
    for tokens, items in ((other, shop.items), (tokenizer, turned)):
        with pytest.raises(
            InputError, match="trained with other tokens, other items or the same items in another order"
        ):
            Recommender(model, tokens, items, device="cpu")
    other.save_pretrained(damaged / "tokenizer")
    with pytest.raises(InputError, match=r"tokenizer\.json is not the file that was saved with this folder"):
        Recommender.from_pretrained(damaged)
    with pytest.raises(InputError, match="trained with other tokens, other items or the same items in another order"):
        Recommender.from_pretrained(damaged, verify=False)


def test_a_bit_that_flipped_is_found(damaged: Path, histories: dict[str, list[str]]) -> None:
    expected = Recommender.from_pretrained(damaged, device="cpu").recommend(histories)
    path = damaged / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(InputError, match=r"model\.safetensors is not the file that was saved with this folder"):
        Recommender.from_pretrained(damaged)
    assert Recommender.from_pretrained(damaged, device="cpu", verify=False).recommend(histories).num_rows
    path.write_bytes(content)
    assert Recommender.from_pretrained(damaged, device="cpu").recommend(histories).equals(expected)


def test_a_saved_recommender_with_more_items_has_its_own_catalog(
    exact: Recommender, tmp_path: Path, histories: dict[str, list[str]]
) -> None:
    grown = exact.with_search()
    new = exact.items.table.slice(0, 1).set_column(0, "item_id", pa.array(["new"]))
    grown.add_items(new)
    grown.save_pretrained(tmp_path / "grown")
    loaded = Recommender.from_pretrained(tmp_path / "grown", device="cpu")
    assert loaded.recommend(histories).equals(grown.recommend(histories))
    assert loaded.model.catalog not in (exact.model.catalog, None)
