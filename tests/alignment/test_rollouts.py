"""Rollouts are paths of existing items in the search's own order, and their log-probabilities are the policy's."""

import pytest
import torch

from reg4rec.alignment.rollouts import evaluate_paths, roll_out
from reg4rec.data.shop import SyntheticShop
from reg4rec.model import Reg4RecModel, encoded_histories
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer


@pytest.fixture(params=["model", "token_model"])
def ranker(request: pytest.FixtureRequest, shop: SyntheticShop, tokenizer: Tokenizer) -> Recommender:
    model: Reg4RecModel = request.getfixturevalue(request.param)
    return Recommender(model, tokenizer, shop.items, device="cpu").with_search(prune_threshold=None)


@pytest.mark.parametrize("kind", ["sample", "beam"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@torch.no_grad()
def test_every_path_is_that_of_an_item(ranker: Recommender, shop: SyntheticShop, kind: str, num_steps: int) -> None:
    memory = encoded_histories(ranker.model, ranker.codes_IM, shop.part("train").take(range(40)))
    torch.manual_seed(0)
    paths = roll_out(ranker.model, memory, ranker.index, 6, num_steps, 1.3, kind)  # type: ignore[arg-type]
    tokens_TM = paths.tokens_BGM(3)[paths.valid_BG]
    assert ((tokens_TM >= 0).sum(1) == num_steps).all()
    fits_TI = ((tokens_TM[:, None] == ranker.codes_IM) | (tokens_TM[:, None] < 0)).all(-1)
    assert fits_TI.any(1).all()
    assert paths.admissible_BGSK.gather(3, paths.code_BGS[..., None])[paths.valid_BG].all()
    if kind == "beam":
        distinct = {tuple(map(int, row)) for row in paths.tokens_BGM(3)[0][paths.valid_BG[0]]}
        assert len(distinct) == int(paths.valid_BG[0].sum())


@torch.no_grad()
def test_a_cold_sample_is_the_first_greedy_path(ranker: Recommender, shop: SyntheticShop) -> None:
    memory = encoded_histories(ranker.model, ranker.codes_IM, shop.part("train").take(range(40)))
    cold = roll_out(ranker.model, memory, ranker.index, 2, 3, 1e-4)
    greedy = roll_out(ranker.model, memory, ranker.index, 1, 3, 1.0, "beam")
    assert torch.equal(cold.tokens_BGM(3)[:, :1], greedy.tokens_BGM(3))
    assert torch.equal(cold.order_BGS[:, :1], greedy.order_BGS)


@torch.no_grad()
def test_log_probabilities_are_those_of_the_draws(ranker: Recommender, shop: SyntheticShop) -> None:
    """Over many draws for one user, first tokens come as often as their recorded probability says."""
    memory = encoded_histories(ranker.model, ranker.codes_IM, shop.part("train").take([3]))
    torch.manual_seed(0)
    paths = roll_out(ranker.model, memory, ranker.index, 4000, 1, 2.0)
    policy = evaluate_paths(ranker.model, memory, paths, 2.0)
    codes, draws = paths.code_BGS[0, :, 0].unique(return_counts=True)
    for code, count in zip(codes.tolist(), draws.tolist(), strict=True):
        probability = policy.log_probs_BGS[0, paths.code_BGS[0, :, 0] == code, 0].exp()
        assert probability.std(correction=0) < 1e-6
        assert count / 4000 == pytest.approx(float(probability[0]), abs=0.035)
    assert float(policy.entropy_BGS.mean()) > 0


def test_the_policy_learns_through_recorded_paths(ranker: Recommender, shop: SyntheticShop) -> None:
    histories = shop.part("train").take(range(8))
    memory = encoded_histories(ranker.model, ranker.codes_IM, histories)
    paths = roll_out(ranker.model, memory, ranker.index, 4, 3, 1.0)
    policy = evaluate_paths(ranker.model, memory, paths, 1.0)
    (gradient,) = torch.autograd.grad(policy.log_probs_BGS.mean(), ranker.model.tokens_MKD)
    assert gradient.isfinite().all()
    assert gradient.any()
    with torch.no_grad():
        again = evaluate_paths(ranker.model, encoded_histories(ranker.model, ranker.codes_IM, histories), paths, 1.0)
    assert torch.equal(again.log_probs_BGS, policy.log_probs_BGS)
    assert policy.js_BGS.shape == (8, 4, 2)
    assert (policy.js_BGS >= 0).all()
    assert (policy.category_BGS >= 0).all()
