"""From tokens to a recommender with a configured search, by validation or from an earlier fit."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reg4rec.data.shop import SyntheticShop
from reg4rec.loop import LoopConfig
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, fit_recommender

QUICK = PretrainConfig(size="tiny", max_history=4, num_beams=9, validation_users=20, loop=LoopConfig(epochs=1))


def fit(
    shop: SyntheticShop, tokenizer: Tokenizer, out: Path, search: SearchConfig | None = None, **overrides: Any
) -> Recommender:
    run = Run(out, device="cpu", progress=False)
    return fit_recommender(shop, tokenizer, QUICK, run, search, batch_targets=1024, **overrides)


def test_validation_sets_up_the_search_and_all_that_it_tried_is_written(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    recommender = fit(shop, tokenizer, tmp_path)
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert stored["chosen"] == asdict(recommender.config)
    assert recommender.config.num_beams == 9
    # two tokens or all, five more thresholds
    assert len(stored["tried"]) == 1 + 1 + 5
    names = ("num_steps", "prune_threshold")
    (row,) = (row for row in stored["tried"] if all(row[name] == stored["chosen"][name] for name in names))
    assert row["ndcg@10"] >= stored["tried"][0]["ndcg@10"]
    loaded = Recommender.from_pretrained(tmp_path / "recommender", device="cpu")
    histories = shop.part("train").take(np.arange(20))
    assert loaded.config == recommender.config
    assert np.array_equal(loaded.rank(histories, 10, False), recommender.rank(histories, 10, False))


def test_a_final_fit_takes_over_the_search_of_an_earlier_one(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    earlier = SearchConfig(17, 2, None, num_steps=2)
    recommender = fit(shop, tokenizer, tmp_path, earlier, part="train+validation")
    assert recommender.config == earlier
    assert recommender.trained_on == "train+validation"
    assert not (tmp_path / "calibration.json").exists()
    assert Recommender.from_pretrained(tmp_path / "recommender", device="cpu").config == earlier


def test_a_final_fit_without_an_earlier_one_keeps_the_default_search(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    recommender = fit(shop, tokenizer, tmp_path, part="train+validation", order="fixed")
    assert recommender.config == SearchConfig(num_beams=9, order="fixed")
    assert not (tmp_path / "calibration.json").exists()
