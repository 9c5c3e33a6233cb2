"""Settings of the alignment."""

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
    """Weights of the four rewards of a path, divided by their sum; 0 leaves a reward out."""

    step_hit: float = 1.0
    """weight of the reward for steps whose token is the future item's"""
    category_hit: float = 1.0
    """weight of the reward for steps after which the future item's category is predicted"""
    step_consistency: float = 1.0
    """weight of the reward for adjacent steps whose categories agree, right or wrong"""
    global_path: float = 1.0
    """weight of the reward for a path that leads to the future item"""

    def __post_init__(self) -> None:
        values = [getattr(self, name) for name in REWARDS]
        if min(values) < 0 or not sum(values) > 0:
            raise InputError(f"reward weights must be 0 or more, at least one above 0; found {asdict(self)}")
        if sum(values) == self.step_consistency:
            raise InputError("step_consistency cannot be the only reward: a constant category earns all of it (D7)")


@dataclass(frozen=True)
class AlignConfig:
    """Settings of the alignment of a pre-trained recommender."""

    group_size: int = 8
    """G, the number of rollouts (sampled paths) for each user"""
    rollout: RolloutKind = "sample"
    """how rollouts are chosen. sample: drawn from the policy in CRSS order; beam: the best paths of a search"""
    temperature: float = 1.0
    """temperature of the policy's softmax, in rollouts and in probability ratios"""
    window: int = 3
    """h, the number of future items whose hits are rewarded (MSRA)"""
    decay: float = 0.8
    """w, the weight of each further future item relative to the one before it (MSRA)"""
    rewards: RewardWeights = field(default_factory=RewardWeights)
    order_weight: float = 1.0
    """weight of the reward for ranking future items first among the found items"""
    consistency_threshold: float = 0.06
    """categories of adjacent steps agree if their distributions diverge by at most this many nats"""
    clip: float = 0.2
    """probability ratios are clipped to 1 - clip .. 1 + clip (GRPO)"""
    kl_weight: float = 1.0
    """weight of the KL divergence from the pre-trained model"""
    anchor_weight: float = 0.5
    """weight of the pre-training loss, which is added to the alignment loss"""
    batch_users: int = 64
    """number of users in a batch; each history is cut at a random place into past and future"""
    validation_users: int | None = None
    """number of users for the validation after every epoch, None for all; the epoch with the best Recall@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of the validation: standard, or filtered (without seen items and cold targets)"""
    accepted_loss: float = 0.0
    """how much Recall@10 on validation an aligned recommender may lose, for rewards with another goal; with 0 the given
    recommender is kept unless Recall@10 rose by more than two standard errors"""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=3, learning_rate=5e-5, patience=2))
    recipe: str = "default"
    """default: the settings that measured best; paper: only what the paper describes. All stages of a fit need the same
    recipe; on the command line it sets the defaults of the other options"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("accepted_loss", 0 <= self.accepted_loss <= 1, "between 0 and 1"),
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
