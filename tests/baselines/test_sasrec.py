"""SASRec learns the shop, never looks ahead, and its sampled softmax estimates the full one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.baselines import sasrec as module_of_sasrec
from reg4rec.baselines.sasrec_network import SASRecNetwork
from reg4rec.data import Sequences
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.train.item_loss import ItemSampler, draw_negatives, sampled_softmax_loss
from tests.artifacts import reseal

CONFIG = SASRecConfig(
    dim=32,
    ffn_dim=64,
    dropout=0.1,
    num_negatives=40,
    batch_targets=512,
    validation_users=200,
    loop=LoopConfig(epochs=12, learning_rate=1e-2),
)
QUICK = replace(CONFIG, max_history=4, loop=LoopConfig(epochs=3, learning_rate=1e-2, log_every=1, checkpoint_seconds=0))


class Killed(BaseException):
    """Stands for anything that ends a run from outside."""


def fit(shop: SyntheticShop, config: SASRecConfig, out: Path | None = None, seed: int = 0, **overrides: Any) -> SASRec:
    return SASRec.fit(shop, config, Run(out, seed, device="cpu", progress=False), **overrides)


@pytest.fixture(scope="module")
def sasrec(shop: SyntheticShop) -> SASRec:
    return fit(shop, CONFIG)


def same_bits(a: SASRec, b: SASRec) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_shop_is_learned(shop: SyntheticShop, sasrec: SASRec) -> None:
    report = evaluate([Popularity.fit(shop), sasrec, shop.oracle], shop, ks=(5, 10), protocol="filtered")
    popular, learned, attainable = (row.metrics for row in report.rows)
    for metric in ("recall@5", "recall@10", "ndcg@10"):
        assert learned[metric] > 2.5 * popular[metric]
        assert learned[metric] < attainable[metric] + 0.02
    assert learned["recall@10"] > 0.6 * attainable["recall@10"]


def test_states_do_not_look_ahead() -> None:
    torch.manual_seed(0)
    network = SASRecNetwork(num_items=20, dim=16, num_blocks=2, num_heads=2, ffn_dim=16, dropout=0.0).eval()
    items_BL = torch.randint(20, (3, 9))
    states_BJD = network(items_BL)
    for length in range(9):
        changed_BL = items_BL.clone()
        changed_BL[:, length:] = torch.randint(20, (3, 9 - length))
        torch.testing.assert_close(network(changed_BL)[:, : length + 1], states_BJD[:, : length + 1])
        torch.testing.assert_close(network(items_BL[:, :length])[:, -1], states_BJD[:, length])
    assert not torch.allclose(network(changed_BL)[:, -1], states_BJD[:, -1])


def test_with_all_items_the_sampled_softmax_is_the_full_one() -> None:
    states_TD, items_ID = torch.randn(50, 8, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    targets_T = torch.randint(30, (50,))
    losses_T = sampled_softmax_loss(states_TD, items_ID, targets_T, torch.randperm(30), torch.ones(30).double())
    torch.testing.assert_close(losses_T, F.cross_entropy(states_TD @ items_ID.T, targets_T, reduction="none"))


def test_the_sampled_denominator_is_unbiased_and_ignores_the_target() -> None:
    torch.manual_seed(0)
    states_TD, items_ID = torch.randn(4, 6, dtype=torch.float64), torch.randn(12, 6, dtype=torch.float64)
    targets_T, weights_I = torch.tensor([0, 3, 5, 11]), torch.arange(1.0, 13.0)
    target_T, sampled_T, rounds = (states_TD * items_ID[targets_T]).sum(1), torch.zeros(4).double(), 4000
    for _ in range(rounds):
        negatives_X, expected_X = draw_negatives(ItemSampler.of(weights_I), 8)
        losses_T = sampled_softmax_loss(states_TD, items_ID, targets_T, negatives_X, expected_X)
        sampled_T += (losses_T + target_T).exp() / rounds
    torch.testing.assert_close(sampled_T, (states_TD @ items_ID.T).exp().sum(1), rtol=0.05, atol=0)
    only_target = sampled_softmax_loss(states_TD[:1], items_ID, targets_T[:1], targets_T[:1], torch.ones(1).double())
    assert float(only_target) == pytest.approx(0.0)


def test_negatives_are_drawn_by_weight() -> None:
    torch.manual_seed(0)
    negatives_X, expected_X = draw_negatives(ItemSampler.of(torch.tensor([1.0, 0.0, 3.0])), 8000)
    counts_I = torch.bincount(negatives_X, minlength=3)
    torch.testing.assert_close(counts_I, torch.tensor([2000, 0, 6000]), rtol=0.05, atol=0)
    torch.testing.assert_close(expected_X, torch.tensor([2000.0, 0.0, 6000.0])[negatives_X])


def test_rank_is_what_the_scores_say(shop: SyntheticShop, sasrec: SASRec, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = shop.part("train").take(np.arange(40))
    monkeypatch.setattr(module_of_sasrec, "USERS_AT_ONCE", 7)
    open_BN, closed_BN = (sasrec.rank(histories, 20, filter_seen=filtered) for filtered in (False, True))
    assert open_BN.shape == closed_BN.shape == (40, 20)
    assert open_BN.dtype == np.int32
    for row in range(40):
        with torch.no_grad():
            state_D = sasrec.network(torch.from_numpy(histories[row].astype(np.int64))[None])[0, -1]
        best = (sasrec.network.items_ID @ state_D).argsort(descending=True, stable=True).numpy()
        assert open_BN[row].tolist() == best[:20].tolist()
        assert closed_BN[row].tolist() == best[~np.isin(best, histories[row])][:20].tolist()


def test_ties_go_to_the_lowest_row_and_short_lists_are_padded(shop: SyntheticShop) -> None:
    network = SASRecNetwork(shop.num_items, CONFIG.dim, 1, 1, CONFIG.ffn_dim, 0.0)
    torch.nn.init.constant_(network.items_ID, 0.5)
    flat = SASRec(network, shop.items, CONFIG, "cpu")
    histories = Sequences.from_lists([[1, 3], [], range(shop.num_items)])
    assert flat.rank(histories, 4, True).tolist() == [[0, 2, 4, 5], [0, 1, 2, 3], [-1] * 4]
    assert flat.rank(histories, shop.num_items + 2, False)[1, -3:].tolist() == [shop.num_items - 1, -1, -1]
    assert flat.rank(Sequences.from_lists([]), 3, True).shape == (0, 3)


def test_only_the_newest_items_of_a_history_are_read(shop: SyntheticShop, sasrec: SASRec) -> None:
    short = SASRec(sasrec.network, shop.items, replace(CONFIG, max_history=3), "cpu")
    histories = Sequences.from_lists([[9, 8, 7, 1, 2, 3], [1, 2, 3]])
    ranked = short.rank(histories, 10, False)
    assert ranked[0].tolist() == ranked[1].tolist()


def test_recommendations_are_a_table_like_the_recommenders(sasrec: SASRec, recommender: Recommender) -> None:
    histories = {"ann": ["item3", "item9"], "bob": []}
    table = sasrec.recommend(histories, k=5, exclude=["item7"], to="polars")
    assert table.schema == recommender.recommend(histories, k=1, to="polars").schema
    assert table["user_id"].to_list() == ["ann"] * 5 + ["bob"] * 5
    assert table["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    assert set(table["source"]) == {"item score"}
    assert not set(table["item_id"][:5]) & {"item3", "item9", "item7"}
    scores = table["score"].to_list()
    assert scores[:5] == sorted(scores[:5], reverse=True)
    few = sasrec.recommend(histories, k=5, candidates=["item1", "item3", "item4"], to="polars")
    assert [set(few.filter(few["user_id"] == u)["item_id"]) for u in histories] == [
        {"item1", "item4"},
        {"item1", "item3", "item4"},
    ]
    with pytest.raises(InputError, match="at least 1"):
        sasrec.recommend(histories, k=0, to="polars")


def test_a_saved_model_comes_back(shop: SyntheticShop, sasrec: SASRec, tmp_path: Path) -> None:
    sasrec.save_pretrained(tmp_path / "saved")
    loaded = SASRec.from_pretrained(tmp_path / "saved", "cpu")
    assert loaded.config == sasrec.config
    assert same_bits(loaded, sasrec)
    assert loaded.recommend([["item3"]], to="polars").equals(sasrec.recommend([["item3"]], to="polars"))
    header = json.loads((tmp_path / "saved" / "sasrec.json").read_text())
    del header["config"]["dim"]
    header["config"]["width"] = 3
    reseal(tmp_path / "saved" / "sasrec.json", header)
    with pytest.raises(InputError, match="does not contain a complete SASRec"):
        SASRec.from_pretrained(tmp_path / "saved")


def test_a_killed_fit_goes_on_to_the_same_bits(
    shop: SyntheticShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, whole_loss, steps = fit(shop, QUICK, tmp_path / "whole"), sampled_softmax_loss, 0

    def loss_until_killed(*inputs: Any) -> torch.Tensor:
        nonlocal steps
        if steps == 30:
            raise Killed
        steps += 1
        return whole_loss(*inputs)

    monkeypatch.setattr(module_of_sasrec, "sampled_softmax_loss", loss_until_killed)
    with pytest.raises(Killed):
        fit(shop, QUICK, tmp_path / "killed")
    monkeypatch.undo()
    assert same_bits(fit(shop, QUICK, tmp_path / "killed"), whole)
    assert not same_bits(fit(shop, QUICK, seed=1), whole)
    with pytest.raises(InputError, match="other settings"):
        fit(shop, QUICK, tmp_path / "whole", dim=16)


def test_a_final_fit_sees_the_validation_items(shop: SyntheticShop, tmp_path: Path) -> None:
    final = fit(shop, QUICK, tmp_path, part="train+validation", epochs=1)
    assert final.trained_on == "train+validation"
    assert "validation" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 7}, {"num_blocks": 0}, {"num_heads": 3}, {"dropout": 1.0}, {"num_negatives": 0}, {"part": "all"}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="num_heads" if "dim" in wrong else next(iter(wrong))):
        SASRecConfig(**wrong)
