"""Settings of the search that validation chooses."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from reg4rec.data.shop import SyntheticShop
from reg4rec.evaluation import evaluate
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import calibrate


def test_one_setting_after_the_other_is_chosen_on_validation(shop: SyntheticShop, recommender: Recommender) -> None:
    chosen, tried = calibrate(recommender, shop, thresholds=(None, 0.0, 0.3), max_users=100)
    assert chosen.model is recommender.model
    names = ("num_steps", "prune_threshold")

    def ndcg(row: dict[str, Any]) -> npt.NDArray[np.float64]:
        searching = recommender.with_search(**{name: row[name] for name in names})
        ranks_B = evaluate(searching, shop, "validation", ks=(10,), max_users=100).rows[0].ranks_B
        return np.where(ranks_B < 10, 1 / np.log2(2.0 + ranks_B), 0.0)

    best, changes = tried[0], []
    assert [best[name] for name in names] == [2, None]
    for row in tried[1:]:
        (changed,) = (name for name in names if row[name] != best[name])
        changes.append((changed, row[changed]))
        gain_B = ndcg(row) - ndcg(best)
        best = row if gain_B.mean() > 2.5 * gain_B.std() / len(gain_B) ** 0.5 else best
    assert changes == [
        ("num_steps", None),
        *(("prune_threshold", threshold) for threshold in (0.0, 0.3)),
    ]
    assert chosen.config == replace(recommender.config, **{name: best[name] for name in names})
    found = evaluate(chosen, shop, "validation", ks=(10,), max_users=100).rows[0]
    assert found.metrics["ndcg@10"] == pytest.approx(best["ndcg@10"])


def test_ties_keep_what_was_tried_first(
    shop: SyntheticShop, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Recommender, "rank_with_details", lambda self, histories, k, *_: (np.full((len(histories), k), -1), {})
    )
    chosen, tried = calibrate(recommender, shop, thresholds=(None, 0.3), max_users=10)
    assert len(tried) == 3
    assert chosen.config == replace(recommender.config, num_steps=2, prune_threshold=None)


def test_paths_are_measured_for_a_recommender_that_ranks_without_them(shop: SyntheticShop, exact: Recommender) -> None:
    chosen, tried = calibrate(exact, shop, thresholds=(None, 0.0), max_users=50)
    assert [row["paths_pruned"] > 0 for row in tried] == [False, False, True]
    assert chosen.config.retriever == "auto"
    assert chosen.retriever == "exact"


def test_a_model_of_tokens_alone_has_a_threshold_to_choose(
    shop: SyntheticShop, tokenizer: Tokenizer, token_model: Reg4RecModel
) -> None:
    recommender = Recommender(token_model, tokenizer, shop.items, device="cpu")
    _, tried = calibrate(recommender, shop, thresholds=(None, 0.3), max_users=20)
    assert [row["prune_threshold"] for row in tried] == [None, 0.3]
    assert not any("num_steps" in row for row in tried)
