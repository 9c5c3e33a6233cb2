"""Alignment of a pre-trained recommender: PARS rewards, multi-step rewards (MSRA), group-relative updates (GRPO)."""

from reg4rec.alignment.align import align
from reg4rec.alignment.config import AlignConfig, RewardWeights
from reg4rec.alignment.rewards import Reward, RewardedPaths

__all__ = ["AlignConfig", "Reward", "RewardWeights", "RewardedPaths", "align"]
