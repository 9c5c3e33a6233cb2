"""The four rewards of PARS and the weights of MSRA, each a pure function of a batch of paths.

Paths (..., S): the tokens of S steps and the category predicted after each. All rewards lie in [0, 1].
Paper: PARS and MSRA, figure (worked examples) and stated; normalization and weights ours, D7 and D9.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reg4rec.data import Sequences

__all__ = [
    "REWARDS",
    "Reward",
    "RewardedPaths",
    "category_hit",
    "future_weights",
    "global_path",
    "matched_tokens",
    "order_reward",
    "step_consistency",
    "step_hit",
]

REWARDS = ("step_hit", "category_hit", "step_consistency", "global_path")


class RewardedPaths(NamedTuple):
    """Input of your own rewards: G rollouts for each of B users.

    histories: item rows before the cut, oldest first. futures_BF: rows of the next items, -1 after the last;
    weights_BF: their weights, which sum to 1. tokens_BGM: the token of each codebook, -1 if it was not decoded.
    categories_BGS: the category predicted after each step, -1 without categories. js_BGS: Jensen-Shannon divergence
    (nats) of the S - 1 pairs of adjacent steps. valid_BG: whether a rollout is a path; others earn nothing. Tensors are
    on the recommender's device.
    """

    histories: Sequences
    futures_BF: Tensor
    weights_BF: Tensor
    tokens_BGM: Tensor
    categories_BGS: Tensor
    js_BGS: Tensor
    valid_BG: Tensor


Reward = Callable[[RewardedPaths], Tensor]
"""Returns the reward (B, G) of each path, from 0 to 1."""


def matched_tokens(tokens: Tensor, targets: Tensor) -> Tensor:
    """Number of tokens that a path (..., M; -1 where none was decoded) shares with the target (..., M)."""
    return ((tokens == targets) & (tokens >= 0)).sum(-1)


def step_hit(matched: Tensor, num_steps: int) -> Tensor:
    """The fraction of steps whose token is the target's."""
    return matched / num_steps


def category_hit(categories: Tensor, target: Tensor) -> Tensor:
    """The fraction of steps (..., S) whose predicted category is the target's (...); 0 if the target has none (-1)."""
    return ((categories == target[..., None]) & (target[..., None] >= 0)).float().mean(-1)


def step_consistency(js: Tensor, threshold: float) -> Tensor:
    """The fraction of adjacent steps whose categories diverge by at most `threshold` nats (js: (..., S - 1)).

    0 for a path of one step, which has nothing to be consistent with.
    """
    return (js <= threshold).float().sum(-1) / max(1, js.shape[-1])


def global_path(matched: Tensor, num_steps: int) -> Tensor:
    """1 for a path to the target, the fraction of matched tokens if relaxed matching finds the target (D11), else 0."""
    fewest = max(1, num_steps - max(1, num_steps // 3))
    return torch.where(matched >= fewest, matched / num_steps, 0.0)


def order_reward(scores_BN: Tensor, hit_BN: Tensor, found_BN: Tensor) -> Tensor:
    """reward_B: log of the expected reward of an item drawn from the softmax of the scores; 0 if no item has a reward.

    hit_BN: the reward of each found item, 0 or more; found_BN: False where the search found no item. The order of the
    found items is the last choice after the paths. They are few, so the expectation is exact, without draws. The
    logarithm lets a user whose next item is ranked low count as much as one whose next item is ranked first. Ours, D7.
    """
    lowest = torch.finfo(scores_BN.dtype).min
    scores_BN, hit_BN = scores_BN.masked_fill(~found_BN, lowest), hit_BN.masked_fill(~found_BN, 0)
    earns_BN = hit_BN > 0
    earned_BN = torch.where(earns_BN, scores_BN + torch.where(earns_BN, hit_BN, 1).log(), lowest)
    return torch.where(earns_BN.any(1), earned_BN.logsumexp(1) - scores_BN.logsumexp(1), 0)


def future_weights(filled_BF: Tensor, decay: float) -> Tensor:
    """weight_BF of the next items: `decay` to the power of their distance, scaled to a sum of 1 for each user."""
    weight_BF = filled_BF * decay ** torch.arange(filled_BF.shape[1], device=filled_BF.device)
    return weight_BF / weight_BF.sum(1, keepdim=True).clamp(min=torch.finfo(weight_BF.dtype).tiny)
