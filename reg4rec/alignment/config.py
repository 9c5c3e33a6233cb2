"""How a recommender is aligned: every setting, and where its default comes from."""

from dataclasses import asdict, dataclass, field
from typing import get_args

from reg4rec.alignment.rewards import REWARDS
from reg4rec.alignment.rollouts import RolloutKind
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName
from reg4rec.loop import LoopConfig
from reg4rec.settings import check_settings

__all__ = ["AlignConfig", "RewardWeights"]


@dataclass(frozen=True)
class RewardWeights:
    """How much each reward counts; 0 leaves one out. They are divided by their sum."""

    step_hit: float = 1.0
    """steps whose token is the future item's"""
    category_hit: float = 1.0
    """steps after which the future item's category is predicted"""
    step_consistency: float = 1.0
    """adjacent steps whose categories agree, right or wrong"""
    global_path: float = 1.0
    """the path leads to the future item"""

    def __post_init__(self) -> None:
        values = [getattr(self, name) for name in REWARDS]
        if min(values) < 0 or not sum(values) > 0:
            raise InputError(f"reward weights are 0 or more, one of them above 0; found {asdict(self)}")
        if sum(values) == self.step_consistency:
            raise InputError("step_consistency cannot be the only reward: a constant category earns all of it (D7)")


@dataclass(frozen=True)
class AlignConfig:
    """How a pre-trained recommender is aligned."""

    group_size: int = 8
    """G, rollouts for each user"""
    rollout: RolloutKind = "sample"
    """sample: drawn in CRSS order; beam: the best paths, all different"""
    temperature: float = 1.0
    """of the policy, in rollouts and ratios"""
    window: int = 3
    """h, future items that are rewarded (MSRA)"""
    decay: float = 0.8
    """w, by which each further future item counts less (MSRA)"""
    rewards: RewardWeights = field(default_factory=RewardWeights)
    order_weight: float = 1.0
    """weight of the reward of the order in which the found items come"""
    consistency_threshold: float = 0.06
    """nats by which the categories of adjacent steps may diverge and still agree"""
    clip: float = 0.2
    """how far a ratio may move before it earns nothing more"""
    kl_weight: float = 1.0
    """weight of the distance to the pre-trained model"""
    anchor_weight: float = 0.5
    """weight of the pre-training loss that fits the model"""
    batch_users: int = 64
    """users in a batch, each cut at a random place"""
    validation_users: int | None = None
    """users on whom Recall and NDCG are measured after every epoch, by default all; the best Recall@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of these measurements: standard, or filtered, without seen items and cold targets"""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=3, learning_rate=5e-5, patience=2))
    recipe: str = "default"
    """default: the best that we measured; paper: the paper's parts alone. All stages of a fit have the same one; on the
    command line it sets the defaults of the other options"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("group_size", self.group_size >= 2, "2 or more: advantages are relative to the group"),
            ("rollout", self.rollout in get_args(RolloutKind), f"one of {get_args(RolloutKind)}"),
            ("temperature", self.temperature > 0, "above 0"),
            ("window", self.window >= 1, "1 or more"),
            ("decay", 0 < self.decay <= 1, "above 0 and at most 1"),
            ("consistency_threshold", self.consistency_threshold >= 0, "0 nats or more"),
            ("clip", 0 < self.clip < 1, "between 0 and 1"),
            ("kl_weight", self.kl_weight >= 0, "0 or more"),
            ("order_weight", self.order_weight >= 0, "0 or more"),
            ("anchor_weight", self.anchor_weight >= 0, "0 or more"),
            ("batch_users", self.batch_users >= 1, "1 or more"),
            ("validation_users", self.validation_users is None or self.validation_users >= 1, "1 or more, or None"),
            ("protocol", self.protocol in get_args(ProtocolName), "standard or filtered"),
        )
