"""The four rewards of PARS and the weights of MSRA, each a pure function of a batch of paths.

Paths (..., S): the tokens of S steps and the category predicted after each. All rewards lie in [0, 1].
Paper: PARS and MSRA, figure (worked examples) and stated; normalization and weights ours, D7 and D9.
"""

import torch
from torch import Tensor

__all__ = [
    "REWARDS",
    "category_hit",
    "expected_hit",
    "future_weights",
    "global_path",
    "matched_tokens",
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


def expected_hit(scores_BN: Tensor, items_BN: Tensor, future_BF: Tensor, weight_BF: Tensor) -> Tensor:
    """expected_B: the weight of future items (-1 for none) that a draw from the softmax of the scores is to hit.

    The last choice of a path, which of the found items (-1 for none) comes first, in models that score items. There are
    few of them, so that the mean over all draws takes no draws. Ours, D7.
    """
    scores_BN = scores_BN.masked_fill(items_BN < 0, torch.finfo(scores_BN.dtype).min)
    hit_BNF = (items_BN[:, :, None] == future_BF[:, None]) & (items_BN[:, :, None] >= 0)
    return (scores_BN.softmax(1) * (hit_BNF * weight_BF[:, None]).sum(2)).sum(1)


def future_weights(filled_BF: Tensor, decay: float) -> Tensor:
    """weight_BF of the next items: `decay` to the power of their distance, summing to 1 over those that there are."""
    weight_BF = filled_BF * decay ** torch.arange(filled_BF.shape[1], device=filled_BF.device)
    return weight_BF / weight_BF.sum(1, keepdim=True).clamp(min=torch.finfo(weight_BF.dtype).tiny)
