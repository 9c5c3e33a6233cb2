"""The recommender: always N items that exist and are allowed, the caller's own ids, the same after a reload."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from polars.testing import assert_frame_equal

from reg4rec import ops
from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.infer import Recommender
from reg4rec.infer.batch import read_users, recommend_to_folder
from reg4rec.kernels.beam_step import native
from reg4rec.kernels.machine import native_problem
from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.storage import write_json, write_tensors
from reg4rec.tokenizer import Tokenizer


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


def items_by_user(table: pl.DataFrame) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for row in table.iter_rows(named=True):
        found.setdefault(row["user_id"], []).append(row["item_id"])
        assert row["rank"] == len(found[row["user_id"]])
    return found


def share(flags: pl.Series) -> float:
    return float(flags.to_numpy().mean())


def check_lists(table: pl.DataFrame, histories: dict[Any, list[Any]], k: int, allowed: set[Any]) -> None:
    """Every user in order, with k distinct allowed items, ranks from 1, scores falling within a source."""
    found = items_by_user(table)
    assert list(found) == list(histories)
    for user, items in found.items():
        assert len(items) == len(set(items)) == min(k, len(allowed - set(histories[user])))
        assert set(items) <= allowed - set(histories[user])
    for _, rows in table.group_by("user_id", "source"):
        assert (rows.sort("rank")["score"].diff().drop_nulls() <= 1e-6).all()


@pytest.mark.parametrize("threshold", [None, 0.06, 0.0])
@pytest.mark.parametrize("k", [1, 10, 25])
def test_every_user_gets_k_distinct_allowed_items(
    recommender: Recommender, histories: dict[str, list[str]], k: int, threshold: float | None
) -> None:
    table = recommender.with_search(prune_threshold=threshold).recommend(histories, k=k)
    assert table.columns == ["user_id", "rank", "item_id", "score", "path", "source"]
    check_lists(table, histories, k, set(recommender.items.ids.to_pylist()))
    if threshold is None:
        assert share(table["source"] == "path") > 0.8


@pytest.mark.skipif(native_problem() is not None, reason="needs the extension")
@pytest.mark.parametrize("order", ["confidence", "fixed"])
def test_the_extension_recommends_what_eager_does(
    recommender: Recommender, histories: dict[str, list[str]], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, steps = native.run, []

    def counted(*args: Any) -> Any:
        steps.append(args[0].shape)
        return run(*args)

    monkeypatch.setattr(native, "run", counted)
    chosen = recommender.with_search(order=order)
    table = chosen.recommend(histories, k=10)
    assert len(steps) == 3  # one for each codebook
    with ops.use_backend("eager"):
        assert_frame_equal(table, chosen.recommend(histories, k=10))


def test_seen_items_stay_where_they_are_wanted(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=60, filter_seen=False)
    for items in items_by_user(table).values():
        assert sorted(items) == sorted(recommender.items.ids.to_pylist())


def test_more_items_than_there_are(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=1000)
    check_lists(table, histories, 1000, set(recommender.items.ids.to_pylist()))


def test_paths_are_the_tokens_of_the_items(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=20)
    orders = set()
    for row in table.iter_rows(named=True):
        codes = recommender.codes_IM[int(recommender.items.rows([row["item_id"]])[0])].tolist()
        shared = {f"<t{r}_{j}>" for r, j in enumerate(codes)} & set(row["path"])
        assert len(shared) == {"path": 3, "relaxed": 2, "tokens": 0}[row["source"]]
        assert len(row["path"]) == (0 if row["source"] == "tokens" else 3)
        orders.add(tuple(token[2] for token in row["path"]))
    assert len(orders) > 2  # the order is chosen anew for each path


def test_excluded_items_never_come(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    first = items_by_user(recommender.recommend(histories, k=3))
    unwanted = {item for items in first.values() for item in items}
    table = recommender.recommend(histories, k=10, exclude=unwanted)
    check_lists(table, histories, 10, set(recommender.items.ids.to_pylist()) - unwanted)


def test_only_candidates_come_and_all_of_them_where_they_are_few(
    recommender: Recommender, histories: dict[str, list[str]]
) -> None:
    for wanted in ([], ["item5"], ["item5", "item9", "item9", "item30"], [f"item{i}" for i in range(0, 60, 3)]):
        table = recommender.recommend(histories, k=10, candidates=wanted, filter_seen=False)
        assert len(table) == 31 * min(10, len(set(wanted)))
        if wanted:
            check_lists(table, {user: [] for user in histories}, 10, set(wanted))
    both = recommender.recommend(histories, candidates=["item5", "item9"], exclude=["item9"], filter_seen=False)
    assert set(both["item_id"]) == {"item5"}


def test_nothing_left_to_recommend_is_no_error(recommender: Recommender) -> None:
    everything = recommender.items.ids.to_pylist()
    table = recommender.recommend({"full": everything, "new": []}, k=2)
    assert items_by_user(table).keys() == {"new"}
    assert recommender.recommend([], k=2).is_empty()
    assert recommender.rank(Sequences.from_lists([]), 3, True).shape == (0, 3)


def test_unknown_items_are_skipped_with_one_warning(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"3 of 5 history items are not in the catalog and were skipped") as caught:
        table = recommender.recommend([["item1", "gone", "item2"], ["gone", "lost"]], k=4)
    assert len(caught) == 1
    assert "'gone', 'gone', 'lost'" in str(caught[0].message)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="2 of 4"):
        shifted = recommender.recommend([["gone", "item1"], ["item2"], ["lost"]], k=4)
    assert_frame_equal(shifted, recommender.recommend([["item1"], ["item2"], []], k=4))
    assert_frame_equal(table, recommender.recommend([["item1", "item2"], []], k=4))


def test_a_history_longer_than_the_model_reads_is_cut_but_all_of_it_is_seen(
    recommender: Recommender, model: Reg4RecModel
) -> None:
    window = model.config.max_history
    long = [f"item{i}" for i in range(window + 15)]
    table = recommender.recommend([long], k=60)
    assert not set(table["item_id"]) & set(long)
    newest = recommender.recommend([long[-window:]], k=10, filter_seen=False)
    assert_frame_equal(newest, recommender.recommend([long], k=10, filter_seen=False))


def test_repeated_items_in_a_history_are_no_error(recommender: Recommender) -> None:
    table = recommender.recommend([["item4"] * 7 + ["item5"]], k=58)
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
    expected = recommender.recommend(list(histories.values()), k=5)
    assert expected["user_id"].unique(maintain_order=True).to_list() == list(range(31))
    table = recommender.recommend(form(list(histories), list(histories.values())), k=5)
    assert_frame_equal(table.drop("user_id"), expected.drop("user_id"))
    assert table["user_id"].unique(maintain_order=True).to_list() == list(histories)


def test_a_table_without_users_is_numbered_and_a_missing_history_is_empty(recommender: Recommender) -> None:
    table = recommender.recommend(pl.DataFrame({"items": [["item3"], None]}), k=2)
    assert_frame_equal(table, recommender.recommend([["item3"], []], k=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["item1", "item2"], "list of lists"),
        ("item1", "found str"),
        (7, "found int"),
        ([3, 4], "must be a list of item ids"),
        ({"u": "item1"}, "must be a list of item ids"),
        (pl.DataFrame({"items": ["item1", "item2"]}), "must be a list of item ids"),
        (pl.DataFrame({"history": [["item1"]]}), r"needs a column 'items', found \['history'\]"),
    ],
)
def test_other_forms_of_histories_are_refused(recommender: Recommender, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recommender.recommend(wrong)


def test_arguments_out_of_range_are_refused(recommender: Recommender) -> None:
    for k in (0, -3):
        with pytest.raises(InputError, match=f"from 1 up, found {k}"):
            recommender.recommend([["item1"]], k=k)
    for role in ("exclude", "candidates"):
        with pytest.raises(InputError, match=rf"{role} names 1 items that are not in the catalog, for example 'gone'"):
            recommender.recommend([["item1"]], **{role: ["item1", "gone"]})  # type: ignore[arg-type]


def test_integer_ids_come_back_as_integers(
    recommender: Recommender, model: Reg4RecModel, tokenizer: Tokenizer, histories: dict[str, list[str]]
) -> None:
    numbers = np.arange(60) * 10 + 1000
    table = recommender.items.table.set_column(0, "item_id", pa.array(numbers))
    numbered = Recommender(model, tokenizer, ItemCatalog.from_table(table), recommender.popularity_I, device="cpu")
    number_of = dict(zip(recommender.items.ids.to_pylist(), numbers.tolist(), strict=True))
    found = numbered.recommend({9: [number_of[item] for item in histories["user0"]]}, k=5, exclude=[1000, 1010])
    expected = recommender.recommend({9: histories["user0"]}, k=5, exclude=["item0", "item1"])
    assert found["user_id"].dtype == found["item_id"].dtype == pl.Int64
    assert found["item_id"].to_list() == [number_of[item] for item in expected["item_id"]]
    with pytest.warns(UserWarning, match="1 of 1 history items"):
        numbered.recommend([[5]])


def test_users_alone_and_together_get_the_same(recommender: Recommender, shop: SyntheticShop) -> None:
    users = np.arange(60)
    sequences = shop.part("train+validation").take(users)
    plain = recommender.with_search(prune_threshold=None)
    (together,) = plain.search(sequences, 10, True)
    compared = 0
    for u in users:
        (alone,) = plain.search(sequences.take([u]), 10, True)
        scores_N, one_N = together.ranking.scores_BN[u], alone.ranking.scores_BN[0]
        torch.testing.assert_close(scores_N, one_N, atol=1e-4, rtol=0)
        gaps = (scores_N.diff().abs() > 1e-4).tolist()
        clear = torch.tensor([left and right for left, right in zip([True, *gaps], [*gaps, False], strict=True)])
        assert torch.equal(together.ranking.items_BN[u][clear], alone.ranking.items_BN[0][clear])
        compared += int(clear.sum())
    assert compared > 400


def test_batches_follow_one_another(
    recommender: Recommender, histories: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recommender.recommend(histories, k=5)
    monkeypatch.setattr("reg4rec.infer.recommender.LOGITS_AT_ONCE", 24 * 48 * 7)  # seven users at a time
    table = recommender.recommend(histories, k=5)
    assert table["user_id"].to_list() == expected["user_id"].to_list()
    assert share(table["item_id"] == expected["item_id"]) > 0.95


def test_details_say_how_the_search_went(recommender: Recommender, shop: SyntheticShop) -> None:
    users, targets = shop.targets("test")
    part = shop.part("train+validation").take(users[:40])
    ranked, details = recommender.with_search(prune_threshold=0.06).rank_with_details(part, 10, True, targets[:40])
    assert np.array_equal(ranked, recommender.with_search(prune_threshold=0.06).rank(part, 10, True))
    assert {name: len(value) for name, value in details.items()} == dict.fromkeys(
        ("category_accuracy", "paths_pruned", "fallbacks", "from_paths"), 40
    )
    assert 0.2 < np.nanmean(details["category_accuracy"]) <= 1
    assert details["paths_pruned"].sum() > 0
    assert ((details["from_paths"] >= 0) & (details["from_paths"] <= 1)).all()


def test_items_that_share_all_tokens_all_come(model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop) -> None:
    codes_IM = tokenizer.codes_IM.clone()
    codes_IM[30:] = codes_IM[:30]
    popularity = np.arange(60)
    paired = Recommender(model, replace(tokenizer, codes_IM=codes_IM), shop.items, popularity, None, device="cpu")
    table = paired.recommend([["item1", "item2"], []], k=58)
    check_lists(table, {0: ["item1", "item2"], 1: []}, 58, set(shop.items.ids.to_pylist()))
    exact = table.filter((pl.col("user_id") == 1) & (pl.col("source") == "path"))["item_id"].to_list()
    assert len(exact) > 10
    for i in range(0, len(exact) - 1, 2):  # both of a pair, one after the other
        pair = [int(item.removeprefix("item")) for item in exact[i : i + 2]]
        assert abs(pair[0] - pair[1]) == 30


def test_a_reload_gives_the_same_table(
    recommender: Recommender, histories: dict[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    expected = recommender.recommend(histories, k=12)
    loaded = Recommender.from_pretrained(saved, device="cpu")
    assert loaded.config == recommender.config
    assert loaded.trained_on == "train"
    assert_frame_equal(loaded.recommend(histories, k=12), expected)

    other = loaded.with_search(prune_threshold=None, num_beams=7, temperatures=(1.0, 1.5, 0.5))
    other.save_pretrained(tmp_path / "other")
    again = Recommender.from_pretrained(tmp_path / "other", device="cpu")
    assert again.config == other.config
    assert_frame_equal(again.recommend(histories, k=12), other.recommend(histories, k=12))


def test_another_process_gives_the_same_table(
    recommender: Recommender, histories: dict[str, list[str]], saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "histories.json").write_text(json.dumps(histories))
    code = (
        "import json, sys, reg4rec\n"
        "rec = reg4rec.Recommender.from_pretrained(sys.argv[1], device='cpu')\n"
        "histories = json.load(open(sys.argv[2] + '/histories.json'))\n"
        "rec.recommend(histories, k=8).write_parquet(sys.argv[2] + '/found.parquet')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(saved), str(tmp_path)], env=environment, check=True)
    assert_frame_equal(pl.read_parquet(tmp_path / "found.parquet"), recommender.recommend(histories, k=8))


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
        {"search": {"num_beams": 3}},
        {"search": {"wings": 2, "temperatures": None}},
        {"search": None},
        {"search": {"num_beams": 20, "num_spares": 4, "prune_threshold": -1.0, "temperatures": None}},
        {"search": {"num_beams": 20, "num_spares": 4, "prune_threshold": None, "temperatures": [1.0]}},
        {"version": 99},
        {"format": "reg4rec-dataset"},
    ],
    ids=str,
)
def test_headers_that_make_no_recommender_are_refused(damaged: Path, changes: dict[str, Any]) -> None:
    path = damaged / "recommender.json"
    write_json(path, json.loads(path.read_text()) | changes)
    with pytest.raises(InputError):
        Recommender.from_pretrained(damaged)


def test_a_header_without_its_entries_is_refused(damaged: Path) -> None:
    header = json.loads((damaged / "recommender.json").read_text())
    for missing in ("search", "category_level", "trained_on"):
        write_json(damaged / "recommender.json", {k: v for k, v in header.items() if k != missing})
        with pytest.raises(InputError, match=f"does not hold a whole recommender: '{missing}'"):
            Recommender.from_pretrained(damaged)


def test_a_folder_that_is_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recommender\.json is missing; is .* the folder that was meant"):
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
    for wrong in (np.ones(59), np.ones(61), np.ones((60, 1))):
        with pytest.raises(InputError, match="popularity"):
            Recommender(model, tokenizer, shop.items, wrong, device="cpu")
    with pytest.raises(InputError, match="temperatures"):
        Recommender(model, tokenizer, shop.items, temperatures=(1.0, 1.0), device="cpu")
    with pytest.raises(InputError, match="dtype is auto"):
        Recommender(model, tokenizer, shop.items, device="cpu", dtype="float16")  # type: ignore[arg-type]
    write_tensors(damaged / "items.safetensors", {"popularity": torch.ones(7, dtype=torch.int64)})
    with pytest.raises(InputError, match="popularity"):
        Recommender.from_pretrained(damaged)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(
    model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop, device: str
) -> None:
    with pytest.raises(InputError, match=f"device .*{device}"):
        Recommender(model, tokenizer, shop.items, device=device)


def test_half_precision_on_the_cpu_recommends_much_the_same(
    recommender: Recommender, saved: Path, histories: dict[str, list[str]]
) -> None:
    half = Recommender.from_pretrained(saved, device="cpu", dtype="bfloat16").with_search(prune_threshold=None)
    found = items_by_user(half.recommend(histories, k=10))
    expected = items_by_user(recommender.with_search(prune_threshold=None).recommend(histories, k=10))
    shared = [len(set(found[user]) & set(expected[user])) for user in histories]
    assert sum(shared) > 8 * len(shared)


def test_files_of_users_become_parts_of_a_folder(
    recommender: Recommender, histories: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"user_id": list(histories), "items": pa.array(list(histories.values()), pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "users.parquet")
    monkeypatch.setattr("reg4rec.infer.batch.USERS_IN_PART", 10)
    count = recommend_to_folder(recommender, read_users(tmp_path / "users.parquet"), tmp_path / "out", k=3)
    assert count == 31
    parts = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in parts] == [f"part-{n:05d}.parquet" for n in range(4)]
    found = pl.concat([pl.read_parquet(part) for part in parts])
    check_lists(found, histories, 3, set(recommender.items.ids.to_pylist()))


def test_no_warning_is_given_in_ordinary_use(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender.recommend(histories, k=3, exclude=["item1"], candidates=[f"item{i}" for i in range(20)])


def test_similar_items_are_the_nearest_vectors(recommender: Recommender) -> None:
    vectors = recommender.tokenizer.views.vectors_IV.astype("float64")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = recommender.similar_items(["item5", "item9"], k=4)
    assert table["item_id"].to_list() == ["item5"] * 4 + ["item9"] * 4
    assert table["rank"].to_list() == [1, 2, 3, 4] * 2
    for name, row in (("item5", 5), ("item9", 9)):
        cosine = vectors @ vectors[row]
        cosine[row] = -2
        found = table.filter(table["item_id"] == name)
        assert found["score"].to_list() == pytest.approx(np.sort(cosine)[::-1][:4].tolist(), abs=1e-5)
        assert name not in found["similar_item_id"]
    assert recommender.similar_items(["item0"], k=1000).height == len(recommender.items) - 1
    with pytest.raises(InputError, match="nothing-like-it"):
        recommender.similar_items(["nothing-like-it"])
    with pytest.raises(InputError, match="from 1 up"):
        recommender.similar_items(["item0"], k=0)


def test_no_users_give_an_empty_table_of_the_same_columns(recommender: Recommender) -> None:
    some, none = recommender.recommend([["item0"]], k=2), recommender.recommend([], k=2)
    assert none.height == 0
    assert none.columns == some.columns
    assert none["item_id"].dtype == some["item_id"].dtype == pl.String


def test_users_without_ids_are_numbered_through_all_parts(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.infer.batch.USERS_IN_PART", 2)
    pq.write_table(pa.table({"items": [["item0"], ["item1"], ["item2"]]}), tmp_path / "users.parquet")
    recommend_to_folder(recommender, read_users(tmp_path / "users.parquet"), tmp_path / "out", k=1)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet")["user_id"].to_list() == [0, 1, 2]
