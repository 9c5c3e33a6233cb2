"""How a model is pre-trained: every setting, and where its default comes from."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reg4rec.evaluation import ProtocolName
from reg4rec.loop import LoopConfig
from reg4rec.model import HistoryLayout, Size
from reg4rec.precision.ladq import LadqConfig, Precision
from reg4rec.settings import check_settings
from reg4rec.train.losses import StepTargets
from reg4rec.train.orders import OrderPolicy

__all__ = ["PretrainConfig"]


@dataclass(frozen=True)
class PretrainConfig:
    """How a model is pre-trained."""

    size: Size = "small"
    """tiny d64, small d128, base d256, large d1024"""
    history_layout: HistoryLayout = "pooled"
    """pooled: one vector an item; flat: a separator and its tokens (D14)"""
    max_history: int = 50
    """newest items of a history that the encoder reads"""
    dropout: float = 0.3
    """in embeddings, sub-layers and FFNs"""
    score_items: bool = True
    """train a score of whole items beside the tokens (D11): paths find the items, the score orders them"""
    num_negatives: int = 512
    """items drawn by popularity for the softmax of the item scores, where these are trained; shared by a batch"""
    order: OrderPolicy = "random"
    """order of a target's tokens: random, then crss for the last epochs; crss or fixed throughout (D4)"""
    targets: StepTargets = "open"
    """what a step predicts: the tokens of all codebooks that are still open (D4), or only the next in the order"""
    renormalize: bool = True
    """a token's probability, in training and search, is among those by which its path can still become an item; False:
    among all of its codebook"""
    crss_fraction: float = 0.0
    """last part of the epochs that feed tokens in the model's own order, where `order` is random (D4)"""
    token_weight: float = 0.3
    """weight of the token and category losses beside the loss of the item scores, where these are trained"""
    category_weight: float = 0.5
    """alpha, the weight of the category loss beside the token loss (D6); 0 makes a model without a category head"""
    decoded_fraction: float = 0.25
    """part of a batch's targets whose tokens are decoded, drawn anew each time; item scores learn from all of them"""
    batch_targets: int = 512
    """target items in a batch, padding included"""
    num_beams: int = 75
    """paths that the trained recommender keeps at every step of its search"""
    validation_users: int | None = None
    """users on whom Recall and NDCG are measured after every epoch, by default all; the best NDCG@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of these measurements: standard, or filtered, without seen items and cold targets"""
    part: Literal["train", "train+validation"] = "train"
    """train+validation is for a final fit: it has nothing to validate on and keeps the last epoch"""
    precision: Precision = "fp32"
    """of the products in the blocks' linear layers while training: one for all, or ladq, which chooses for each"""
    ladq: LadqConfig = field(default_factory=LadqConfig)
    """how precision ladq chooses"""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=12, learning_rate=2e-3, weight_decay=0.1, patience=3)
    )
    recipe: str = "default"
    """default: the best that we measured; paper: the paper's parts alone. All stages of a fit have the same one; on the
    command line it sets the defaults of the other options"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("order", self.order in get_args(OrderPolicy), f"one of {get_args(OrderPolicy)}"),
            ("targets", self.targets in get_args(StepTargets), f"one of {get_args(StepTargets)}"),
            ("precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
            ("max_history", self.max_history >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("crss_fraction", 0 <= self.crss_fraction <= 1, "between 0 and 1"),
            ("num_negatives", self.num_negatives >= 1, "1 or more"),
            ("token_weight", self.token_weight > 0, "above 0"),
            ("decoded_fraction", 0 < self.decoded_fraction <= 1, "above 0 and at most 1"),
            ("category_weight", self.category_weight >= 0, "0 or more"),
            ("batch_targets", self.batch_targets >= 1, "1 or more"),
            ("num_beams", self.num_beams >= 1, "1 or more"),
            ("validation_users", self.validation_users is None or self.validation_users >= 1, "1 or more, or None"),
            ("protocol", self.protocol in get_args(ProtocolName), "standard or filtered"),
        )

    @property
    def kept(self) -> dict[str, Any]:
        """The settings of the loss by name, which the model keeps, since alignment goes on with them."""
        names = (
            "order",
            "targets",
            "num_negatives",
            "token_weight",
            "category_weight",
            "decoded_fraction",
            "batch_targets",
        )
        return {name: getattr(self, name) for name in names}

    @property
    def search(self) -> dict[str, Any]:
        """Fields of `SearchConfig` as the trained model wants them; one that has seen one order only knows no other."""
        order = "fixed" if self.order == "fixed" else "confidence"
        return {"order": order, "num_beams": self.num_beams}
