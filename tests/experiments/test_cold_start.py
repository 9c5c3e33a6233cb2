"""The study of cold starts: held-out items stay unseen, new items leave old ones unchanged, one command does it all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reg4rec.baselines import SASRecConfig
from reg4rec.data import Dataset, ItemCatalog, Sequences, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.experiments import ColdStartConfig, Finding, cold_start
from reg4rec.experiments.cold_start import TextNeighbor
from reg4rec.experiments.held_out import HeldOut, hold_out
from reg4rec.loop import LoopConfig
from reg4rec.recipes import RECIPES, Recipe
from reg4rec.settings import override

TOKENS = {"kind": "mpq", "num_codebooks": 2, "codebook_size": 8, "codeword_dim": 8, "hidden_dim": 16, "epochs": 6}
CONFIG = ColdStartConfig(
    newest=(1,),
    reg4rec=Recipe(
        override(RECIPES["default"].tokenizer, TOKENS | {"autoencoder_epochs": 2}),
        override(RECIPES["default"].pretrain, {"size": "tiny", "validation_users": 20, "epochs": 1}),
    ),
    sasrec=SASRecConfig(dim=16, ffn_dim=16, num_negatives=20, validation_users=50, loop=LoopConfig(epochs=1)),
)


@pytest.fixture(scope="module")
def small() -> Dataset:
    base = synthetic_shop(num_users=120, num_items=60, num_facets=3, seed=0)
    image = np.random.default_rng(0).normal(size=(60, 5))
    times = np.concatenate([np.arange(n) for n in base.sequences.lengths])
    return Dataset.build(base.name, base.user_ids, base.sequences, base.items, {"image": image}, times=times)


@pytest.fixture(scope="module")
def held(small: Dataset) -> HeldOut:
    return hold_out(small, 0.2, 0.1, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cold")


@pytest.fixture(scope="module")
def findings(small: Dataset, folder: Path) -> Finding[Any]:
    return cold_start(small, CONFIG, out=folder, device="cpu")


def named(data: Dataset) -> dict[str, list[str]]:
    """Each user's items, by the caller's ids."""
    ids = np.array(data.items.ids.to_pylist())
    return {user: ids[data.sequences[row]].tolist() for row, user in enumerate(data.user_ids.to_pylist())}


def item_names(held: HeldOut) -> list[str]:
    """The caller's ids of the rows of `new_item_cases`."""
    return [*held.seen.items.ids.to_pylist(), *held.new_items["item_id"].to_pylist()]


def test_what_is_held_out_is_nowhere_in_what_is_fitted(small: Dataset, held: HeldOut) -> None:
    new, seen = held.new_items["item_id"].to_pylist(), held.seen.items.ids.to_pylist()
    assert (len(new), sorted(new + seen)) == (12, sorted(small.items.ids.to_pylist()))
    users, others = held.seen.user_ids.to_pylist(), held.unseen.user_ids.to_pylist()
    assert (len(others), sorted(users + others)) == (12, sorted(small.user_ids.to_pylist()))
    whole = named(small)
    left = {user: [item for item in items if item not in new] for user, items in whole.items()}
    assert named(held.seen) | named(held.unseen) == left


def test_matrices_and_times_go_with_their_items(small: Dataset, held: HeldOut) -> None:
    rows = small.items.rows(held.seen.items.ids)
    np.testing.assert_array_equal(held.seen.vectors["image"], small.vectors["image"][rows])
    rows = small.items.rows(held.new_items["item_id"])
    np.testing.assert_array_equal(held.new_vectors["image"], small.vectors["image"][rows])
    for part in (held.seen, held.unseen):
        assert part.times is not None
        ids = part.items.ids.to_pylist()
        for row, user in enumerate(part.user_ids.to_pylist()):
            span = slice(*part.sequences.offsets[row : row + 2])
            places = [named(small)[user].index(ids[item]) for item in part.sequences.items[span]]
            assert part.times[span].tolist() == places


def test_nothing_that_is_fitted_on_depends_on_new_items(small: Dataset, held: HeldOut) -> None:
    new = set(held.new_items["item_id"].to_pylist())
    titles = [
        ("?" if i in new else t)
        for i, t in zip(small.items.ids.to_pylist(), small.items.texts(("title",)), strict=True)
    ]
    table = small.items.table.set_column(1, "title", pa.array(titles))
    image = small.vectors["image"].copy()
    image[small.items.rows(list(new))] = 7
    items = ItemCatalog.from_table(table, small.items.category_level)
    other = Dataset.build(small.name, small.user_ids, small.sequences, items, {"image": image}, times=small.times)
    again = hold_out(other, 0.2, 0.1, seed=3)
    assert again.seen.card["fingerprint"] == held.seen.card["fingerprint"]
    assert set(again.new_items["title"].to_pylist()) == {"?"}


def test_a_case_is_a_seen_user_whose_last_item_is_new(small: Dataset, held: HeldOut) -> None:
    ids, whole = item_names(held), named(small)
    new = set(held.new_items["item_id"].to_pylist())
    expected = sorted(
        ([item for item in items[:-1] if item not in new], items[-1])
        for user, items in whole.items()
        if items[-1] in new and user in set(held.seen.user_ids.to_pylist())
    )
    cases = held.new_item_cases
    histories, targets = cases.histories, cases.targets_B
    found = sorted(([ids[i] for i in histories[b]], ids[target]) for b, target in enumerate(targets))
    assert found == expected


def test_a_split_by_time_keeps_its_moments(small: Dataset) -> None:
    held = hold_out(small.with_time_split(6, 8, "timestamp"), 0.2, 0.1, seed=3)
    ids, whole = item_names(held), named(small)
    assert (held.seen.split.validation_from, held.seen.split.test_from) == (6, 8)
    nexts = {items[-1] for items in whole.values() if len(items) > 8}
    assert {ids[target] for target in held.new_item_cases.targets_B} <= nexts & set(ids[held.seen.num_items :])


def test_text_neighbors_are_the_nearest_allowed_items() -> None:
    text_IV = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8], [0, 0]], dtype=np.float32)
    histories, rows = Sequences.from_lists([[2, 0], [1], []]), np.arange(5, dtype=np.int32)
    last = TextNeighbor(text_IV, newest=1).rank(histories, 4, rows)
    assert last.tolist() == [[1, 3, 4, -1], [3, 0, 2, 4], [0, 1, 2, 3]]
    mean = TextNeighbor(text_IV).rank(histories, 2, np.array([4, 3, 1], dtype=np.int32))
    assert mean.tolist() == [[3, 1], [3, 4], [4, 3]]


def test_chance_is_the_mean_over_all_orders(findings: Finding[Any]) -> None:
    among_all, among_new = [row.metrics for row in findings.rows if row.method == "chance"]
    assert among_all["recall@10"] == pytest.approx(10 / 60)
    assert among_all["recall@50"] == pytest.approx(50 / 60)
    assert among_all["ndcg@10"] == pytest.approx(sum(1 / np.log2(2 + r) for r in range(10)) / 60)
    assert among_new["recall@10"] == 1.0


def test_every_method_answers_every_question(findings: Finding[Any], folder: Path) -> None:
    untrained = ["popularity", "text neighbor, last item", "text neighbor, all items"]
    items = [row for row in findings.rows if row.question == "items"]
    assert [row.method for row in items] == ["chance", *untrained, "reg4rec"] * 2
    assert {row.group for row in items} == {"among all 60 items", "among 6 new items"}
    users = [row for row in findings.rows if row.question == "users"]
    assert [row.method for row in users] == [*untrained, "sasrec", "reg4rec"] * 4
    assert [(row.kept, row.group) for row in users[::5]] == [
        (kept, group) for kept in ("1", "all") for group in ("new users", "seen users")
    ]
    # all six new items are ranked, so every method finds the target
    assert [row.metrics["recall@10"] for row in items[5:]] == [1.0] * 5
    assert (folder / "cold-start.md").read_text() == findings.markdown()
    stored = json.loads((folder / "cold-start.json").read_text())
    assert stored["settings"]["reg4rec"]["tokenizer"]["codebook_size"] == 8
    assert stored["counts"]["items_new"] == 6


def test_the_command_fits_nothing_twice(small: Dataset, folder: Path, findings: Finding[Any]) -> None:
    there = [path for part in ("fits", "results") for path in (folder / part).rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in there}
    assert sorted(path.parent.name.partition("-")[0] for path in there if path.name == "metrics.jsonl") == [
        *("model", "sasrec", "tokenizer")
    ]
    again = cold_start(small, CONFIG, out=folder, device="cpu")
    assert again.rows == findings.rows
    assert {path: path.stat().st_mtime_ns for path in there} == before


def test_too_small_a_part_is_refused(small: Dataset) -> None:
    with pytest.raises(InputError, match="hold out a larger part"):
        hold_out(small, 0.001, 0.1, seed=0)
