"""The recommender: always N existing, allowed items, the same for a user alone and in a batch."""

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.kernels.beam_step import native
from reg4rec.kernels.machine import native_problem
from reg4rec.model import Reg4RecModel, encoded_histories
from reg4rec.recommend import Recommender
from reg4rec.search.engine import MANY_PATHS, precision
from reg4rec.tokenizer import Tokenizer
from tests.artifacts import of_any_items
from tests.isa import BF16_ISAS, selected_bf16, selected_isa
from tests.lists import check_lists, items_by_user, share


@pytest.mark.parametrize("threshold", [None, 0.06, 0.0])
@pytest.mark.parametrize("k", [1, 10, 25])
def test_every_user_gets_k_distinct_allowed_items(
    recommender: Recommender, histories: dict[str, list[str]], k: int, threshold: float | None
) -> None:
    chosen = recommender.with_search(prune_threshold=threshold)
    table = chosen.recommend(histories, k=k, return_paths=True, to="polars")
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

    def counted(call: Any) -> Any:
        steps.append(call)
        return run(call)

    monkeypatch.setattr(native, "run", counted)
    chosen = recommender.with_search(order=order)
    table = chosen.recommend(histories, k=10, to="polars")
    assert len(steps) == 3  # one for each codebook
    with ops.use_backend("eager"):
        assert_frame_equal(table, chosen.recommend(histories, k=10, to="polars"))


def test_seen_items_stay_on_request(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=60, filter_seen=False, to="polars")
    for items in items_by_user(table).values():
        assert sorted(items) == sorted(recommender.items.ids.to_pylist())


def test_more_items_than_there_are(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=1000, to="polars")
    check_lists(table, histories, 1000, set(recommender.items.ids.to_pylist()))


@pytest.mark.parametrize("retriever", ["exact", "paths"])
def test_a_recommender_of_some_items_leaves_the_others_out(
    recommender: Recommender, histories: dict[str, list[str]], retriever: str
) -> None:
    ids = recommender.items.ids.to_pylist()[::2]
    some = recommender.with_search(retriever=retriever).only(ids)
    check_lists(some.recommend(histories, k=60, to="polars"), histories, 60, set(ids))
    some.add_items(recommender.items.table.slice(1, 1))
    check_lists(some.recommend(histories, k=60, to="polars"), histories, 60, {*ids, recommender.items.ids[1].as_py()})


def test_the_fingerprint_is_of_all_that_decides(recommender: Recommender) -> None:
    model = copy.deepcopy(recommender.model)
    assert recommender.with_model(model).fingerprint() == recommender.fingerprint()
    model.config = replace(model.config, max_history=3)
    assert recommender.with_model(model).fingerprint() != recommender.fingerprint()


def tokens_of(path: list[dict[str, Any]]) -> list[str]:
    return [step["token"] for step in path]


def test_paths_are_the_tokens_of_the_items(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    table = recommender.recommend(histories, k=20, return_paths=True, to="polars")
    orders = set()
    for row in table.iter_rows(named=True):
        codes = recommender.codes_IM[int(recommender.items.rows([row["item_id"]])[0])].tolist()
        tokens = tokens_of(row["path"])
        shared = {f"<t{r}_{j}>" for r, j in enumerate(codes)} & set(tokens)
        assert len(shared) == {"path": 3, "relaxed": 2, "tokens": 0}[row["source"]]
        assert len(tokens) == (0 if row["source"] == "tokens" else 3)
        orders.add(tuple(token[2] for token in tokens))
    assert len(orders) > 2  # each path has its own order


def test_a_path_shows_category_and_confidence_of_each_step(
    recommender: Recommender, shop: SyntheticShop, histories: dict[str, list[str]]
) -> None:
    judged = recommender.with_search(prune_threshold=0.5)
    table = judged.recommend(histories, k=5, return_paths=True, to="polars")
    table = table.filter((pl.col("source") == "path") & (pl.col("user_id") != "new"))
    names = set(shop.items.category_names)
    (found,) = judged.search(shop.sequences.take(range(30)), 5, True)
    for row in table.iter_rows(named=True):
        b, n = int(row["user_id"].removeprefix("user")), row["rank"] - 1
        confidences = [step["confidence"] for step in row["path"]]
        score = float(found.paths.scores_BW[b, found.ranking.path_BN[b, n]])
        assert np.log(confidences).sum() == pytest.approx(score, abs=1e-4)
        assert all(0 < confidence <= 1 for confidence in confidences)
        assert {step["category"] for step in row["path"]} <= names
    endless = recommender.with_search(prune_threshold=None)
    open_ended = endless.recommend([["item1"]], k=1, return_paths=True, to="polars")["path"][0]
    assert [step["category"] is None for step in open_ended] == [False, False, True]


def test_paths_are_given_on_request_only(recommender: Recommender) -> None:
    table = recommender.recommend([["item1"]], k=4, return_paths=True, to="polars")
    assert_frame_equal(recommender.recommend([["item1"]], k=4, to="polars"), table.drop("path"))


def test_shorter_paths_have_fewer_tokens(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    shorter = recommender.with_search(num_steps=2, prune_threshold=None)
    table = shorter.recommend(histories, k=20, return_paths=True, to="polars")
    check_lists(table, histories, 20, set(recommender.items.ids.to_pylist()))
    assert share(table["source"] == "path") > 0.9
    for row in table.filter(pl.col("source") == "path").iter_rows(named=True):
        codes = recommender.codes_IM[int(recommender.items.rows([row["item_id"]])[0])].tolist()
        tokens = tokens_of(row["path"])
        assert len(tokens) == len(set(tokens)) == 2
        assert set(tokens) < {f"<t{r}_{j}>" for r, j in enumerate(codes)}


def with_repeat_bias(recommender: Recommender, bias: float) -> Recommender:
    """The same recommender with another repeat bias in the model."""
    model = copy.deepcopy(recommender.model)
    with torch.no_grad():
        model.repeat.mul_(bias / model.repeat_bias)
    return Recommender(model, recommender.tokenizer, recommender.items, device="cpu", num_beams=200)


@torch.no_grad()
@pytest.mark.parametrize("bias", [-3.0, 1.5])
@pytest.mark.parametrize("num_steps", [None, 1, 2])
def test_items_have_the_scores_that_training_gave_them(
    recommender: Recommender, shop: SyntheticShop, bias: float, num_steps: int | None
) -> None:
    """State times vector, plus the repeat bias if the history holds the item."""
    biased = with_repeat_bias(recommender, bias)
    wide = biased.with_search(num_steps=num_steps, prune_threshold=None)
    histories = shop.part("train").take(range(20))
    state_BD = encoded_histories(biased.model, biased.codes_IM, histories).state_BD
    scores_BI = state_BD @ biased.model.embed_items(biased.codes_IM, torch.arange(60)).T
    for b in range(20):
        scores_BI[b, torch.from_numpy(histories[b]).long()] += bias
    (found,) = wide.search(histories, 60, filter_seen=False)
    ranking = found.ranking
    assert (ranking.source_BN == 0).all()  # with beams this wide the paths find every item
    torch.testing.assert_close(ranking.scores_BN, scores_BI.gather(1, ranking.items_BN), rtol=0, atol=1e-4)
    assert (ranking.scores_BN.diff() <= 0).all()
    assert ranking.items_BN.sort().values.tolist() == [list(range(60))] * 20


def test_excluded_items_never_come(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    first = items_by_user(recommender.recommend(histories, k=3, to="polars"))
    unwanted = {item for items in first.values() for item in items}
    table = recommender.recommend(histories, k=10, exclude=unwanted, to="polars")
    check_lists(table, histories, 10, set(recommender.items.ids.to_pylist()) - unwanted)


def test_only_candidates_come_and_all_of_them_where_they_are_few(
    recommender: Recommender, histories: dict[str, list[str]]
) -> None:
    for wanted in ([], ["item5"], ["item5", "item9", "item9", "item30"], [f"item{i}" for i in range(0, 60, 3)]):
        table = recommender.recommend(histories, k=10, candidates=wanted, filter_seen=False, to="polars")
        assert len(table) == 31 * min(10, len(set(wanted)))
        if wanted:
            check_lists(table, {user: [] for user in histories}, 10, set(wanted))
    both = recommender.recommend(
        histories, candidates=["item5", "item9"], exclude=["item9"], filter_seen=False, to="polars"
    )
    assert set(both["item_id"]) == {"item5"}


def test_nothing_left_to_recommend_is_no_error(recommender: Recommender) -> None:
    everything = recommender.items.ids.to_pylist()
    table = recommender.recommend({"full": everything, "new": []}, k=2, to="polars")
    assert items_by_user(table).keys() == {"new"}
    assert recommender.recommend([], k=2, to="polars").is_empty()
    assert recommender.rank(Sequences.from_lists([]), 3, True).shape == (0, 3)


def test_arguments_out_of_range_are_refused(recommender: Recommender) -> None:
    for k in (0, -3):
        with pytest.raises(InputError, match=f"at least 1, found {k}"):
            recommender.recommend([["item1"]], k=k, to="polars")
    given: Any
    for role in ("exclude", "candidates"):
        given = {role: ["item1", "gone"]}
        with pytest.raises(InputError, match=rf"{role} names 1 items that are not in the catalog, for example 'gone'"):
            recommender.recommend([["item1"]], **given, unknown="error", to="polars")


def test_filters_leave_out_what_the_catalog_lacks(recommender: Recommender) -> None:
    history, stock = [["item1"]], ["item2", "gone", "item3"]
    expected = recommender.recommend(history, candidates=["item2", "item3"])
    assert recommender.recommend(history, candidates=stock).equals(expected)
    assert recommender.only(stock).recommend(history).equals(expected)
    plain = recommender.recommend(history, k=60)
    with pytest.warns(UserWarning, match="exclude names 2 items, none of which is in the catalog, for example 'gone'"):
        assert recommender.recommend(history, k=60, exclude=["gone", "lost"]).equals(plain)
    with pytest.warns(UserWarning, match="candidates names 1 items, none of which"):
        assert not len(recommender.recommend(history, candidates={0: ["gone"]}))
    with pytest.raises(InputError, match="item_ids names 1 items that are not in the catalog, for example 'gone'"):
        recommender.only(stock, unknown="error")
    with pytest.raises(InputError, match=r"unknown must be one of \('ignore', 'error'\), found 'drop'"):
        recommender.recommend(history, exclude=stock, unknown="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["exclude", "candidates"])
def test_a_single_id_is_no_list_of_ids(recommender: Recommender, role: str) -> None:
    given: Any
    for given, shown in (("item1", "'item1'"), (7, "7"), ({0: "item1"}, "'item1'")):
        with pytest.raises(
            InputError, match=rf"{role} must be a list of item ids, found {shown}; wrap it: \[{shown}\]"
        ):
            recommender.recommend([["item1"]], **{role: given})


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
    expected = recommender.recommend(histories, k=5, to="polars")
    monkeypatch.setattr("reg4rec.search.engine.LOGITS_AT_ONCE", 24 * 48 * 7)  # seven users at a time
    table = recommender.recommend(histories, k=5, to="polars")
    assert table["user_id"].to_list() == expected["user_id"].to_list()
    assert share(table["item_id"] == expected["item_id"]) > 0.95


def test_details_say_how_the_search_went(recommender: Recommender, shop: SyntheticShop) -> None:
    users, targets = shop.targets("test")
    part = shop.part("train+validation").take(users[:40])
    ranked, details = recommender.with_search(prune_threshold=0.06).rank_with_details(part, 10, True, targets[:40])
    assert np.array_equal(ranked, recommender.with_search(prune_threshold=0.06).rank(part, 10, True))
    assert {name: len(value) for name, value in details.items()} == dict.fromkeys(
        ("category_accuracy", "paths_pruned", "fallbacks", "path_recall", "from_paths"), 40
    )
    assert 0.1 < np.nanmean(details["category_accuracy"]) <= 1  # of 24 categories
    assert details["paths_pruned"].sum() > 0
    assert ((details["from_paths"] >= 0) & (details["from_paths"] <= 1)).all()
    plain = recommender.with_search(prune_threshold=None)
    ranked, details = plain.rank_with_details(part, 10, True, targets[:40])
    found = (ranked == targets[:40, None]).any(1) & (details["from_paths"] == 1)
    assert found.any()
    assert (details["path_recall"][found] == 1).all()
    narrow = recommender.with_search(num_beams=1, prune_threshold=None).rank_with_details(part, 1, True, targets[:40])[
        1
    ]
    assert narrow["path_recall"].mean() < details["path_recall"].mean() < 1


def test_items_that_share_all_tokens_all_come(
    token_model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop
) -> None:
    codes_IM = tokenizer.codes_IM.clone()
    codes_IM[30:] = codes_IM[:30]
    popularity = np.arange(60)
    model, paired_tokens = of_any_items(token_model), replace(tokenizer, codes_IM=codes_IM)
    paired = Recommender(model, paired_tokens, shop.items, popularity, prune_threshold=None, device="cpu")
    table = paired.recommend([["item1", "item2"], []], k=58, to="polars")
    check_lists(table, {0: ["item1", "item2"], 1: []}, 58, set(shop.items.ids.to_pylist()))
    exact = table.filter((pl.col("user_id") == 1) & (pl.col("source") == "path"))["item_id"].to_list()
    assert len(exact) > 10
    for i in range(0, len(exact) - 1, 2):  # both of a pair, one after the other
        pair = [int(item.removeprefix("item")) for item in exact[i : i + 2]]
        assert abs(pair[0] - pair[1]) == 30


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(
    model: Reg4RecModel, tokenizer: Tokenizer, shop: SyntheticShop, device: str
) -> None:
    with pytest.raises(InputError, match=f"device .*{device}"):
        Recommender(model, tokenizer, shop.items, device=device)


def test_no_warning_is_given_in_ordinary_use(recommender: Recommender, histories: dict[str, list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender.recommend(
            histories, k=3, exclude=["item1"], candidates=[f"item{i}" for i in range(20)], to="polars"
        )


def test_no_users_give_an_empty_table_of_the_same_columns(recommender: Recommender) -> None:
    some, none = recommender.recommend([["item0"]], k=2, to="polars"), recommender.recommend([], k=2, to="polars")
    assert none.height == 0
    assert none.columns == some.columns
    assert none["item_id"].dtype == some["item_id"].dtype == pl.String


def test_few_paths_on_a_cpu_are_searched_in_float32_whatever_the_dtype(recommender: Recommender) -> None:
    cpu = recommender.device
    with precision(cpu, torch.bfloat16, MANY_PATHS):
        assert torch.is_autocast_enabled("cpu")
    with precision(cpu, torch.float32, MANY_PATHS):
        assert not torch.is_autocast_enabled("cpu")
    with ops.use_backend("eager"), precision(cpu, torch.bfloat16, 1):
        assert torch.is_autocast_enabled("cpu")
    with selected_isa("base"), precision(cpu, torch.bfloat16, MANY_PATHS - 1):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("isa", BF16_ISAS)
def test_products_of_bfloat16_give_the_same_for_any_split(
    recommender: Recommender, shop: SyntheticShop, isa: str
) -> None:
    half, histories = copy.copy(recommender), shop.part("train").take(np.arange(12))
    half.dtype = torch.bfloat16
    with selected_bf16(isa):
        with precision(half.device, torch.bfloat16, 1):  # faster for any number of paths
            assert torch.is_autocast_enabled("cpu")
        whole_BN = half.rank(histories, 10, True)
        alone = [half.rank(histories.take([user]), 10, True) for user in range(12)]
    assert np.array_equal(np.concatenate(alone), whole_BN)
    plain_BN = recommender.rank(histories, 10, True)
    shared = [len(set(one) & set(other)) / 10 for one, other in zip(whole_BN, plain_BN, strict=True)]
    assert np.mean(shared) > 0.9
