"""What validation decides about the search."""

import copy

import pytest
import torch

from reg4rec.data.shop import SyntheticShop
from reg4rec.evaluation import evaluate
from reg4rec.infer import Recommender
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import calibrate
from reg4rec.train.calibration import TEMPERATURES, fit_temperatures


def test_temperatures_undo_a_scale_put_on_the_logits(
    shop: SyntheticShop, tokenizer: Tokenizer, model: Reg4RecModel, recommender: Recommender
) -> None:
    before = fit_temperatures(recommender, shop, 200, seed=0)
    assert set(before) <= set(TEMPERATURES.tolist())

    class Louder(Reg4RecModel):
        def token_logits(self, state: torch.Tensor) -> torch.Tensor:
            return super().token_logits(state) * torch.tensor([1.0, 1.5, 0.8])[:, None]

    louder = copy.deepcopy(model)
    louder.__class__ = Louder
    after = fit_temperatures(Recommender(louder, tokenizer, shop.items, device="cpu"), shop, 200, seed=0)
    step = TEMPERATURES[1] / TEMPERATURES[0]
    for r, scale in enumerate((1.0, 1.5, 0.8)):
        assert 1 / step <= after[r] / before[r] / scale <= step


def test_the_setting_kept_is_the_best_on_validation(shop: SyntheticShop, recommender: Recommender) -> None:
    chosen, tried = calibrate(recommender, shop, thresholds=(None, 0.0, 0.3), max_users=100)
    assert chosen.model is recommender.model
    assert recommender.config.temperatures is None
    assert [row["prune_threshold"] for row in tried] == [None, None, 0.0, 0.3]
    best = max(row["ndcg@10"] for row in tried)
    found = evaluate(chosen, shop, "validation", ks=(10,), max_users=100).rows[0]
    assert found.metrics["ndcg@10"] == pytest.approx(best)
