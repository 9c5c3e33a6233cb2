"""Group-relative policy optimization: advantages within a group, clipped ratios, and the distance to a reference."""

from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec import distributed

__all__ = ["PolicyLoss", "distance", "group_advantages", "policy_loss"]

EPSILON = 1e-6
"""Added to a group's standard deviation; rewards that differ less (relatively, above 1) count as equal."""


class PolicyLoss(NamedTuple):
    """Means over the actions that were taken (in alignment, those of groups that are not dead): the clipped objective,
    to be minimized; the KL estimate; the fraction of clipped ratios."""

    objective: Tensor
    kl: Tensor
    clip_fraction: Tensor


def group_advantages(rewards_BG: Tensor, valid_BG: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """advantages_BG = (R - mean) / (std + 1e-6) within each group, and dead_B: groups in which all rewards are equal.

    std is the population standard deviation. A dead group teaches nothing and gets advantage 0. A rollout that is not
    valid gets advantage 0 too and is left out of mean and std. Paper: PARS, stated; formula ours, D8.
    """
    valid_BG = torch.ones_like(rewards_BG, dtype=torch.bool) if valid_BG is None else valid_BG
    count_B1 = valid_BG.sum(1, keepdim=True).clamp(min=1)
    mean_B1 = rewards_BG.masked_fill(~valid_BG, 0).sum(1, keepdim=True) / count_B1
    away_BG = (rewards_BG - mean_B1).masked_fill(~valid_BG, 0)
    std_B1 = (away_BG.square().sum(1, keepdim=True) / count_B1).sqrt()
    highest_B = rewards_BG.masked_fill(~valid_BG, -torch.inf).amax(1)
    lowest_B = rewards_BG.masked_fill(~valid_BG, torch.inf).amin(1)
    dead_B = highest_B - lowest_B <= EPSILON * highest_B.abs().clamp(min=1)
    return (away_BG / (std_B1 + EPSILON)).masked_fill(dead_B[:, None], 0), dead_B


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    advantages: Tensor,
    taken: Tensor,
    clip: float,
) -> PolicyLoss:
    """Means over the actions that were `taken` (bool). All arguments are (..., S), advantages (...): one for each path.

    The objective is -min(ratio A, clip(ratio, 1 - c, 1 + c) A); the KL is the k3 estimate exp(d) - d - 1 with d =
    reference - policy, which is never negative. Paper: PARS, stated; estimator ours, D8.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantages[..., None], clipped * advantages[..., None])

    def mean(values: Tensor) -> Tensor:
        return distributed.ratio(torch.where(taken, values, 0).sum(), taken.sum())

    return PolicyLoss(-mean(gain), mean(distance(log_probs, reference_log_probs)), mean((ratio != clipped).float()))


def distance(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """The k3 estimate of the KL divergence from the reference, for each action of the policy: never negative."""
    apart = reference_log_probs - log_probs
    return apart.exp() - apart - 1
