"""Weights of rewards: fixed ones sum to one, spreads are evened out, learned ones follow what validation asks for."""

import pytest
import torch

from reg4rec.train.reward_mix import RewardMix

REWARDS_RBG = torch.stack([torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.01], [0.01, 0.0]])])


def test_fixed_weights_sum_to_one() -> None:
    mixed_BG = RewardMix([3.0, 1.0])(REWARDS_RBG)
    torch.testing.assert_close(mixed_BG, 0.75 * REWARDS_RBG[0] + 0.25 * REWARDS_RBG[1])


def test_variance_lets_a_small_reward_count_as_much_as_a_large_one() -> None:
    against = torch.stack([REWARDS_RBG[0], 0.01 - REWARDS_RBG[1]])
    mixed_BG = RewardMix([1.0, 1.0], "variance")(against)
    torch.testing.assert_close(mixed_BG, torch.ones(2, 2))  # what one gives, the other takes


def test_a_reward_without_spread_does_not_explode() -> None:
    mixed_BG = RewardMix([1.0, 1.0], "variance")(torch.zeros(2, 3, 4))
    assert mixed_BG.isfinite().all()


def test_learned_weights_go_where_gradients_agree_and_zero_stays_zero() -> None:
    mix = RewardMix([1.0, 1.0, 0.0], "learned")
    for _ in range(30):
        mix.follow(torch.tensor([0.5, -0.5, 1.0]))
    assert mix.share_R.sum() == pytest.approx(1)
    assert mix.share_R[0] > 0.9
    assert mix.share_R[1] > 0
    assert mix.share_R[2] == 0
