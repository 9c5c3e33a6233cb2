"""How several rewards become one: by fixed weights, by weights per spread, or by weights that validation teaches."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from reg4rec import distributed

__all__ = ["Mixing", "RewardMix"]

Mixing = Literal["fixed", "variance", "learned"]

LEARNING_RATE = 0.1
"""Of the logarithms of learned weights, for a cosine of 1."""
SMALLEST_SPREAD = 1e-3


class RewardMix(nn.Module):
    """The weights of R rewards, which sum to 1; part of what a checkpoint saves, since they may be learned."""

    share_R: Tensor

    def __init__(self, weights: Sequence[float], mixing: Mixing = "fixed"):
        super().__init__()
        self.mixing = mixing
        self.register_buffer("share_R", torch.tensor(weights) / sum(weights))

    def forward(self, rewards_RBG: Tensor) -> Tensor:
        """The mixed reward (B, G). `variance` divides each by its mean spread within a group, so that none drowns."""
        share_R11 = self.share_R[:, None, None]
        if self.mixing == "variance":
            spread_R11 = distributed.mean(rewards_RBG.std(2, correction=0), 1)[:, None, None]
            share_R11 = share_R11 / spread_R11.clamp(min=SMALLEST_SPREAD)
        return (share_R11 * rewards_RBG).sum(0)

    @torch.no_grad()
    def follow(self, agreement_R: Tensor) -> None:
        """Move the weights towards rewards whose gradient agrees (cosine, -1 to 1) with what validation asks for.

        An exponentiated-gradient step: a weight of 0 stays 0, the others stay above it. Ours.
        """
        moved_R = self.share_R * (LEARNING_RATE * agreement_R).exp()
        self.share_R.copy_(moved_R / moved_R.sum())
