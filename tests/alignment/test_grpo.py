"""Advantages, clipping and KL against the textbook formulas in fp64, and against a case worked out by hand."""

import math

import pytest
import torch

from reg4rec.alignment.grpo import group_advantages, policy_loss


def test_a_case_by_hand() -> None:
    # rewards 1, 0, 0, 0: mean 1/4, population std sqrt(3)/4, so advantages sqrt(3) and -1/sqrt(3)
    advantage_BG, dead_B = group_advantages(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]))
    assert dead_B.tolist() == [False, True]
    assert advantage_BG[0].tolist() == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3], rel=1e-5)
    assert advantage_BG[1].tolist() == [0] * 4

    # one action with ratio 1.5 (clipped to 1.2), one with 0.5: for A > 0 only the first is cut, for A < 0 the second
    log_probs = torch.log(torch.tensor([[0.6], [0.2]]))
    old = torch.log(torch.tensor([[0.4], [0.4]]))
    taken = torch.ones(2, 1, dtype=torch.bool)
    for advantage, gains in ((1.0, (1.2, 0.5)), (-1.0, (-1.5, -0.8))):
        loss = policy_loss(log_probs, old, old, torch.full((2,), advantage), taken, 0.2)
        assert loss.objective == pytest.approx(-sum(gains) / 2)
        assert loss.clip_fraction == 1
    # k3 of 0.4 against 0.6, and of 0.4 against 0.2
    kl = [0.4 / p - math.log(0.4 / p) - 1 for p in (0.6, 0.2)]
    assert loss.kl == pytest.approx(sum(kl) / 2)


def test_against_the_textbook_in_fp64() -> None:
    torch.manual_seed(0)
    shape, clip = (5, 8, 4), 0.2
    log_probs, old, reference = (torch.randn(shape, dtype=torch.float64).mul(0.2).sub(2) for _ in range(3))
    log_probs.requires_grad_()
    rewards, valid = torch.rand(shape[:2], dtype=torch.float64), torch.rand(shape[:2]) > 0.2
    rewards[1] = 0.3
    advantage, dead = group_advantages(rewards, valid)
    taken = (valid & ~dead[:, None])[..., None].expand(shape)
    found = policy_loss(log_probs, old, reference, advantage, taken, clip)
    (gradient,) = torch.autograd.grad(found.objective + 0.02 * found.kl, log_probs)

    total, divergence, count, expected = 0.0, 0.0, 0, torch.zeros(shape, dtype=torch.float64)
    for b in range(shape[0]):
        group = [float(rewards[b, g]) for g in range(shape[1]) if valid[b, g]]
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / len(group))
        for g in range(shape[1]):
            if not valid[b, g] or std < 1e-6:
                assert advantage[b, g] == 0
                continue
            a = (float(rewards[b, g]) - mean) / (std + 1e-6)
            for s in range(shape[2]):
                ratio = math.exp((log_probs[b, g, s] - old[b, g, s]).item())
                apart = (reference[b, g, s] - log_probs[b, g, s]).item()
                cut = min(max(ratio, 1 - clip), 1 + clip)
                total -= min(ratio * a, cut * a)
                divergence += math.exp(apart) - apart - 1
                expected[b, g, s] = -(ratio * a if ratio * a <= cut * a else 0) + 0.02 * (1 - math.exp(apart))
                count += 1
    assert dead.tolist() == [False, True, False, False, False]
    assert found.objective.item() == pytest.approx(total / count)
    assert found.kl.item() == pytest.approx(divergence / count)
    torch.testing.assert_close(gradient, expected / count)


def test_the_first_update_is_plain_policy_gradient() -> None:
    log_probs = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(3, 2, dtype=torch.float64)
    taken = torch.ones(3, 2, 4, dtype=torch.bool)
    loss = policy_loss(log_probs, log_probs.detach(), log_probs.detach(), advantage, taken, 0.2)
    (gradient,) = torch.autograd.grad(loss.objective + loss.kl, log_probs)
    torch.testing.assert_close(gradient, -advantage[..., None].expand(3, 2, 4) / 24)
    assert loss.clip_fraction == 0
    assert loss.kl == 0


def test_equal_rewards_are_dead_however_large() -> None:
    """The rounding error of their mean must not become an advantage."""
    equal_BG = (torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)) * 1000).expand(-1, 8)
    valid_BG = torch.ones(4000, 8, dtype=torch.bool)
    valid_BG[::2, 5:] = False
    advantage_BG, dead_B = group_advantages(torch.where(valid_BG, equal_BG, -1.0), valid_BG)
    assert dead_B.all()
    assert not advantage_BG.any()
    one_better_BG = equal_BG + torch.eye(8)[0]
    assert not group_advantages(one_better_BG)[1].any()


def test_a_batch_of_dead_groups_is_no_division_by_zero() -> None:
    rewards = torch.zeros(2, 4)
    advantage, dead = group_advantages(rewards)
    log_probs = torch.zeros(2, 4, 3, requires_grad=True)
    taken = (~dead)[:, None, None].expand(2, 4, 3)
    loss = policy_loss(log_probs, torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), advantage, taken, 0.2)
    loss.objective.backward()
    assert loss.objective == 0
    assert log_probs.grad is not None
    assert not log_probs.grad.any()
