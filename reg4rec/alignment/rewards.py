"""The four rewards of PARS and the weights of MSRA, each a pure function of a batch of paths.

Paths (..., S): the tokens of S steps and the category predicted after each. All rewards lie in [0, 1].
Paper: PARS and MSRA, figure (worked examples) and stated; normalization and weights ours, D7 and D9.
"""

import torch
from torch import Tensor

__all__ = [
    "REWARDS",
    "category_hit",
    "future_weights",
    "global_path",
    "matched_tokens",
    "order_reward",
    "step_consistency",
    "step_hit",
]

REWARDS = ("step_hit", "category_hit", "step_consistency", "global_path")


def matched_tokens(tokens: Tensor, targets: Tensor) -> Tensor:
    """How many tokens of a path (..., M; -1 where none was decoded) the target (..., M) has too, whatever the order."""
    return ((tokens == targets) & (tokens >= 0)).sum(-1)


def step_hit(matched: Tensor, num_steps: int) -> Tensor:
    """The part of the steps whose token is the target's."""
    return matched / num_steps


def category_hit(categories: Tensor, target: Tensor) -> Tensor:
    """The part of the steps after which the target's category (...) was predicted (..., S); 0 for one without, -1."""
    return ((categories == target[..., None]) & (target[..., None] >= 0)).float().mean(-1)


def step_consistency(js: Tensor, threshold: float) -> Tensor:
    """The part of the adjacent steps whose categories diverge by `threshold` nats at most (js: (..., S - 1)).

    0 for a path of one step, which has nothing to be consistent with.
    """
    return (js <= threshold).float().sum(-1) / max(1, js.shape[-1])


def global_path(matched: Tensor, num_steps: int) -> Tensor:
    """What the path retrieves: 1 for the target itself, its part of matched tokens within the relaxed rule (D11)."""
    fewest = max(1, num_steps - max(1, num_steps // 3))
    return torch.where(matched >= fewest, matched / num_steps, 0.0)


def order_reward(scores_BN: Tensor, hit_BN: Tensor, found_BN: Tensor) -> Tensor:
    """reward_B: log of what a draw from the softmax of the found items' scores earns; 0 where none earns anything.

    hit_BN: what each of them earns, 0 or more; found_BN: False for places that the search left empty. The order is the
    last choice after the paths; there are few found items, so that the mean over all draws takes no draws. By the
    logarithm a user whose next item stands far down counts as much as one whose stands first. Ours, D7.
    """
    lowest = torch.finfo(scores_BN.dtype).min
    scores_BN, hit_BN = scores_BN.masked_fill(~found_BN, lowest), hit_BN.masked_fill(~found_BN, 0)
    earns_BN = hit_BN > 0
    earned_BN = torch.where(earns_BN, scores_BN + torch.where(earns_BN, hit_BN, 1).log(), lowest)
    return torch.where(earns_BN.any(1), earned_BN.logsumexp(1) - scores_BN.logsumexp(1), 0)


def future_weights(filled_BF: Tensor, decay: float) -> Tensor:
    """weight_BF of the next items: `decay` to the power of their distance, summing to 1 over those that there are."""
    weight_BF = filled_BF * decay ** torch.arange(filled_BF.shape[1], device=filled_BF.device)
    return weight_BF / weight_BF.sum(1, keepdim=True).clamp(min=torch.finfo(weight_BF.dtype).tiny)
