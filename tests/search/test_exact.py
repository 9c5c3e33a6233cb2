"""The retriever `exact`: what brute force finds, whatever the batches, the allowed items and earlier changes."""

import copy
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from reg4rec.batch.job import recommend_to_folder
from reg4rec.data import Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.model import Reg4RecModel, encoded_histories, padded
from reg4rec.recommend import Recommender
from reg4rec.recommend.explain import explain
from reg4rec.search import exact as exact_module
from reg4rec.search.exact import chosen_retriever
from reg4rec.storage import new_header, read_json, read_tensors, write_header, write_json, write_tensors
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import reseal


def brute_force(recommender: Recommender, histories: Sequences, filter_seen: bool, allowed_I: Tensor) -> Tensor:
    """(B, I): the score of every item by the model's own definition, in float64, -inf if it must not be recommended."""
    num_items = len(recommender.items)
    with torch.inference_mode():
        state_BD = encoded_histories(recommender.model, recommender.codes_IM, histories).state_BD.double()
        own_ID = recommender.model.embed_items(recommender.codes_IM, torch.arange(num_items)).double()
    seen_BL = padded(histories, -1)
    seen_BI = torch.zeros(len(histories), num_items + 1).scatter_(1, seen_BL.where(seen_BL >= 0, num_items), 1)
    seen_BI = seen_BI[:, :num_items].bool()
    scores_BI = state_BD @ own_ID.T + recommender.model.repeat_bias.item() * seen_BI
    return scores_BI.masked_fill(~allowed_I | (seen_BI if filter_seen else False), -torch.inf)


def assert_best(ranked_BN: np.ndarray, scores_BI: Tensor) -> None:
    """The ranked items are the best ones; the order is free where scores differ by rounding alone."""
    items_BN = torch.from_numpy(ranked_BN).long()
    best_BN = scores_BI.sort(1, descending=True).values[:, : items_BN.shape[1]]
    found_BN = scores_BI.gather(1, items_BN.clamp(min=0)).masked_fill(items_BN < 0, -torch.inf)
    best_BN = torch.nn.functional.pad(best_BN, (0, found_BN.shape[1] - best_BN.shape[1]), value=-torch.inf)
    torch.testing.assert_close(found_BN, best_BN, rtol=0, atol=1e-4)
    for row in items_BN.tolist():
        known = [item for item in row if item >= 0]
        assert len(known) == len(set(known))


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("k", [1, 10, 70])
def test_it_ranks_as_brute_force(exact: Recommender, shop: SyntheticShop, k: int, filter_seen: bool) -> None:
    assert exact.retriever == "exact"
    histories = Sequences.from_lists([*(shop.sequences[u] for u in range(60)), []])
    everything = torch.ones(len(exact.items), dtype=torch.bool)
    assert_best(exact.rank(histories, k, filter_seen), brute_force(exact, histories, filter_seen, everything))


def test_any_split_gives_the_same(exact: Recommender, shop: SyntheticShop, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = shop.part("train").take(np.arange(40))
    whole_BN = exact.rank(histories, 10, True)
    monkeypatch.setattr("reg4rec.recommend.recommender.SCANNED_AT_ONCE", 7)
    assert np.array_equal(exact.rank(histories, 10, True), whole_BN)
    alone = [exact.rank(histories.take([u]), 10, True) for u in range(40)]
    assert np.array_equal(np.concatenate(alone), whole_BN)


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_a_shorter_list_is_the_head_of_a_longer_one(exact: Recommender, shop: SyntheticShop, retriever: str) -> None:
    chosen = exact.with_search(retriever=retriever, num_beams=8)
    histories = shop.part("train").take(np.arange(50))
    longest_BN = chosen.rank(histories, 50, True)
    for k in (1, 10, 30):
        assert np.array_equal(chosen.rank(histories, k, True), longest_BN[:, :k])


def test_candidates_and_what_is_excluded(exact: Recommender, histories: dict[str, list[str]]) -> None:
    ids = exact.items.ids.to_pylist()
    some, gone = ids[3:40], ids[10:20]
    expected = [row for row in exact.recommend(histories, k=60).to_pylist() if row["item_id"] in {*some} - {*gone}]
    best: dict[str, list[str]] = {}
    for row in expected:
        best.setdefault(row["user_id"], []).append(row["item_id"])
    for found in (
        exact.recommend(histories, k=5, candidates=some, exclude=gone),
        exact.only(some).recommend(histories, k=5, exclude=gone),
        exact.only([one for one in some if one not in gone]).recommend(histories, k=5),
        exact.recommend(histories, k=5, exclude=gone, candidates=dict.fromkeys(histories, some)),
    ):
        lists: dict[str, list[str]] = {}
        for row in found.to_pylist():
            lists.setdefault(row["user_id"], []).append(row["item_id"])
        assert lists == {user: items[:5] for user, items in best.items()}


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_each_user_may_have_candidates_of_its_own(
    exact: Recommender, histories: dict[str, list[str]], retriever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.recommend.recommender.MASKS_AT_ONCE", 3 * len(exact.items))
    chosen, ids = exact.with_search(retriever=retriever), exact.items.ids.to_pylist()
    users = list(histories)[:8]
    own = {user: ids[5 * n : 5 * n + 12] for n, user in enumerate(users)} | {"another": ["no such item"]}
    some = {user: histories[user] for user in users}
    found = chosen.recommend(some, k=6, candidates=own)
    for user in users:
        alone = chosen.recommend({user: histories[user]}, k=6, candidates=own[user])
        assert [row for row in found.to_pylist() if row["user_id"] == user] == alone.to_pylist()
    with pytest.raises(InputError, match="candidates has no entry for 7 users, for example 'user1'"):
        chosen.recommend(some, candidates={"user0": ids})
    with pytest.raises(InputError, match="candidates names 1 items that are not in the catalog"):
        chosen.recommend(some, candidates={**own, "user0": ["nothing"]}, unknown="error")
    mixed = {**own, "user0": ["nothing", *own["user0"]]}
    assert chosen.recommend(some, k=6, candidates=mixed).equals(found)
    without = {"user2": own["user2"][:6], "user3": ["nothing"]}
    left = chosen.recommend(some, k=6, candidates=own, exclude=without)
    for user in users:
        wanted = [item for item in own[user] if item not in without.get(user, [])]
        alone = chosen.recommend({user: histories[user]}, k=6, candidates=wanted)
        assert [row for row in left.to_pylist() if row["user_id"] == user] == alone.to_pylist()


def test_items_come_and_go(exact: Recommender, shop: SyntheticShop) -> None:
    changing, histories = exact.with_search(), shop.part("train").take(np.arange(20))
    ids, gone = exact.items.ids.to_pylist(), torch.ones(len(exact.items), dtype=torch.bool)
    changing.remove_items(ids[7:9])
    gone[7:9] = False
    assert_best(changing.rank(histories, 60, False), brute_force(exact, histories, False, gone))
    table = exact.items.table.slice(0, 40).set_column(0, "item_id", pa.array([f"new{n}" for n in range(40)]))
    before = changing.scan.vectors
    changing.add_items(table)
    assert changing.scan.vectors is not before  # new rows follow the old ones, which were not made again
    assert torch.equal(changing.scan.vectors.panels_X[: 32 * 64], before.panels_X[: 32 * 64])
    changing.add_items(exact.items.table.slice(7, 1))
    allowed_I = torch.ones(100, dtype=torch.bool)
    allowed_I[8] = False
    assert_best(changing.rank(histories, 30, False), brute_force(changing, histories, False, allowed_I))
    assert len(exact.items) == len(exact.scan.vectors.rows_ID) == 60


def test_changed_weights_show_at_once(exact: Recommender, shop: SyntheticShop) -> None:
    changing, histories = exact.with_model(copy.deepcopy(exact.model)), shop.part("train").take(np.arange(20))
    everything = torch.ones(len(exact.items), dtype=torch.bool)
    before = changing.rank(histories, 5, False)
    with torch.no_grad():
        changing.model.residual_ID.mul_(-1)
    after = changing.rank(histories, 5, False)
    assert not np.array_equal(before, after)
    assert_best(after, brute_force(changing, histories, False, everything))
    optimizer = torch.optim.SGD([changing.model.tokens_MKD], lr=5.0)
    changing.model.tokens_MKD.grad = torch.ones_like(changing.model.tokens_MKD).normal_()
    optimizer.step()
    assert_best(changing.rank(histories, 5, False), brute_force(changing, histories, False, everything))


def test_the_retriever_follows_from_model_and_catalog(
    exact: Recommender, token_model: Reg4RecModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens_alone = Recommender(token_model, tokenizer, exact.items, device="cpu")
    assert (exact.config.retriever, exact.retriever, tokens_alone.retriever) == ("auto", "exact", "paths")
    assert chosen_retriever("auto", exact.model, exact_module.MOST_ITEMS) == "exact"
    assert chosen_retriever("auto", exact.model, exact_module.MOST_ITEMS + 1) == "paths"
    assert exact.with_search(retriever="paths").fingerprint() != exact.fingerprint()
    assert exact.with_search(retriever="exact").fingerprint() == exact.fingerprint()
    with pytest.raises(InputError, match="'exact' needs a model that scores items; this model has only paths"):
        tokens_alone.with_search(retriever="exact")
    with pytest.raises(InputError, match=r"retriever must be one of .*'exact', 'paths'.*, found 'best'"):
        exact.with_search(retriever="best")


def test_large_vectors_are_stored_and_mapped(
    exact: Recommender, shop: SyntheticShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reg4rec.recommend.items.LARGE", 50)
    folder, histories = tmp_path / "large", shop.part("train").take(np.arange(20))
    exact.save_pretrained(folder)
    loaded = Recommender.from_pretrained(folder, device="cpu")
    assert np.array_equal(loaded.rank(histories, 10, True), exact.rank(histories, 10, True))
    stored = read_tensors(folder / "vectors.safetensors")
    for name, damaged in (
        ("rows_ID", stored["rows_ID"] + 1),
        ("rows_ID", stored["rows_ID"][:-1]),
        ("panels_X", stored["panels_X"].roll(1)),
        ("panels_X", stored["panels_X"][:-1]),
        ("scales_I", 2 * stored["scales_I"]),
        ("errors_I", 0 * stored["errors_I"]),
        ("norms_I", stored["norms_I"].double()),
    ):
        write_tensors(folder / "vectors.safetensors", {**stored, name: damaged})
        reseal(folder / "recommender.json")
        with pytest.raises(InputError, match=r"vectors.safetensors does not contain the vectors of these items"):
            Recommender.from_pretrained(folder, device="cpu")
    write_tensors(folder / "vectors.safetensors", {name: stored[name] for name in stored if name != "largest"})
    reseal(folder / "recommender.json")
    with pytest.raises(InputError, match=r"vectors.safetensors does not contain .*largest"):
        Recommender.from_pretrained(folder, device="cpu")


def test_reasons_are_the_items_own_tokens_as_a_search_scores_them(
    exact: Recommender, shop: SyntheticShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = shop.part("train").take(np.arange(30))
    searched = exact.with_search(retriever="paths", num_beams=60, prune_threshold=None)
    (found,) = searched.search(histories, 10, False)
    paths, js_BNS = exact.reasons(histories, found.ranking.items_BN)
    assert torch.equal(paths.tokens_BWM, exact.codes_IM[found.ranking.items_BN])
    order_BNM = paths.order_BWM.sort(2).values
    assert torch.equal(order_BNM, torch.arange(3).expand_as(order_BNM))
    assert js_BNS.shape == (30, 10, 2)
    compared = 0
    for user, place in torch.nonzero(found.ranking.path_BN >= 0).tolist():
        path = int(found.ranking.path_BN[user, place])
        if torch.equal(paths.order_BWM[user, place], found.paths.order_BWM[user, path]):
            compared += 1
            for ours, theirs in (
                (paths.scores_BW, found.paths.scores_BW),
                (paths.confidences_BWM, found.paths.confidences_BWM),
            ):
                torch.testing.assert_close(ours[user, place], theirs[user, path], atol=1e-4, rtol=1e-4)
            assert torch.equal(paths.categories_BWM[user, place, :2], found.paths.categories_BWM[user, path, :2])
    assert compared > 100
    monkeypatch.setattr("reg4rec.recommend.recommender.LOGITS_AT_ONCE", 7 * 10 * 48)  # seven users at a time
    split, split_js = exact.reasons(histories, found.ranking.items_BN)
    assert torch.equal(split.tokens_BWM, paths.tokens_BWM)
    torch.testing.assert_close(split_js, js_BNS)
    missing = found.ranking.items_BN.clone()
    missing[0, 3:] = -1
    again, _ = exact.reasons(histories, missing)
    assert (again.tokens_BWM[0, 3:] == -1).all()
    assert (again.scores_BW[0, 3:] == -torch.inf).all()
    assert torch.equal(again.tokens_BWM[0, :3], paths.tokens_BWM[0, :3])


def test_a_table_has_a_path_to_every_item_on_demand(exact: Recommender, histories: dict[str, list[str]]) -> None:
    plain = exact.recommend(histories, k=7)
    assert plain.column_names == ["user_id", "rank", "item_id", "score", "source"]
    assert set(plain["source"].to_pylist()) == {"item score"}
    table = exact.recommend(histories, k=7, return_paths=True)
    assert table.drop_columns(["path"]).equals(plain)
    for row in table.to_pylist():
        codes = exact.codes_IM[int(exact.items.rows([row["item_id"]])[0])].tolist()
        assert {step["token"] for step in row["path"]} == {f"<t{r}_{j}>" for r, j in enumerate(codes)}
        assert all(step["category"] is not None for step in row["path"])


def test_an_explanation_says_that_paths_describe(exact: Recommender, shop: SyntheticShop) -> None:
    history = [f"item{row}" for row in shop.sequences[3]]
    found = explain(exact.with_search(prune_threshold=0.02), history, k=6)
    table = exact.recommend([history], k=6, return_paths=True).to_pylist()
    assert [(i.item_id, i.score) for i in found.recommended] == [(row["item_id"], row["score"]) for row in table]
    for item, row in zip(found.recommended, table, strict=True):
        assert [(step.token, step.category) for step in item.path] == [(s["token"], s["category"]) for s in row["path"]]
        assert item.path[0].divergence is None
        moved = [step.divergence for step in item.path[1:] if step.divergence is not None]
        assert len(moved) == len(item.path) - 1
        assert item.consistent == all(js <= 0.02 for js in moved)
    dropped = sum(not item.consistent for item in found.recommended)
    assert dropped > 0
    assert (
        f"did not select it; CORP would drop {dropped}, whose category changes by more than 0.02 nats" in found.text()
    )
    assert found.text().count("(CORP would drop its path)") == dropped
    assert "did not select it; CORP would drop" in found.html()
    assert "CORP is off, so it would drop none" in explain(exact.with_search(prune_threshold=None), history).text()
    assert json.dumps(found.as_dict())


def test_a_job_goes_on_with_the_retriever_that_it_began_with(
    exact: Recommender, histories: dict[str, list[str]], tmp_path: Path
) -> None:
    users, out = tmp_path / "users.parquet", tmp_path / "out"
    pq.write_table(pa.table({"user_id": list(histories), "items": list(histories.values())}), users)
    summary = recommend_to_folder(exact, users, out, k=4, users_in_part=8, retriever="paths", progress=False)
    assert set(summary["sources"]) <= {"path", "relaxed", "tokens"}
    assert read_json(out / "manifest.json")["job"]["retriever"] == "paths"
    (out / "part-00001.parquet").unlink()
    (out / "summary.json").unlink()
    before = (out / "part-00000.parquet").read_bytes()
    again = recommend_to_folder(exact, users, out, k=4, users_in_part=8, progress=False)
    assert again["parts_resumed"] == again["parts"] - 1
    assert again["sources"] == summary["sources"]
    assert (out / "part-00000.parquet").read_bytes() == before
    with pytest.raises(InputError, match=r"another job \(recommender, retriever, .*differ\)"):
        recommend_to_folder(exact, users, out, k=4, users_in_part=8, retriever="exact", progress=False)
    fresh = recommend_to_folder(exact, users, out, k=4, users_in_part=8, resume=False, progress=False)
    assert set(fresh["sources"]) == {"item score"}
    table = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))
    assert table.equals(exact.recommend(histories, k=4))


def test_an_unknown_form_of_the_table_is_refused(exact: Recommender) -> None:
    with pytest.raises(InputError, match=r"to must be one of .*'arrow', 'polars'.*, found 'pandas'"):
        exact.recommend([["item1"]], to="pandas")  # type: ignore[arg-type]


def test_a_manifest_of_another_version_or_a_damaged_one_is_refused(exact: Recommender, tmp_path: Path) -> None:
    users = tmp_path / "users.parquet"
    pq.write_table(pa.table({"items": [["item1"]]}), users)
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "manifest.json", {"format": "reg4rec-recommendations", "version": 2})
    with pytest.raises(InputError, match="version"):
        recommend_to_folder(exact, users, tmp_path / "out", progress=False)
    write_header(tmp_path / "out" / "manifest.json", new_header("reg4rec-recommendations", 4, job=3, parts=[]))
    with pytest.raises(InputError, match="incomplete or damaged"):
        recommend_to_folder(exact, users, tmp_path / "out", progress=False)
