"""Settings of the pre-training."""

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
    """Settings of the pre-training of a model."""

    size: Size = "small"
    """size of the model. tiny: width 64; small: 128; base: 256; large: 1024"""
    history_layout: HistoryLayout = "pooled"
    """encoder input for one item. pooled: one vector; flat: a separator and the item's tokens (D14)"""
    max_history: int = 50
    """the encoder reads this many of the newest items of a history"""
    dropout: float = 0.3
    """dropout rate in embeddings, attention and feed-forward layers"""
    score_items: bool = True
    """also train a direct score for every item, which then orders the items that paths find (D11)"""
    num_negatives: int = 512
    """number of negative items, drawn by popularity and shared by a batch, for the softmax loss of the item scores"""
    rows_from: int = 200_000
    """catalogs of at least this many items train their residuals row by row: a step then costs the same for every
    catalog (reg4rec.optimizer); smaller ones, and several processes, use AdamW for all weights"""
    order: OrderPolicy = "random"
    """order in which a target's tokens are fed. random: a random permutation; crss: most confident codebook first;
    fixed: codebooks in order (D4)"""
    targets: StepTargets = "open"
    """tokens that a step predicts. open: those of all codebooks not fed yet (D4); next: only the token fed next"""
    renormalize: bool = True
    """normalize a token's probability, in training and search, over the tokens that lead to existing items, not over
    the whole codebook"""
    crss_fraction: float = 0.0
    """if order is random: fraction of the epochs, at the end, that use order crss instead (D4)"""
    token_weight: float = 0.3
    """weight of the token and category losses relative to the item score loss, if item scores are trained"""
    category_weight: float = 0.5
    """alpha, weight of the category loss relative to the token loss (D6); 0 makes a model without a category head"""
    decoded_fraction: float = 0.25
    """fraction of a batch's targets whose tokens are decoded, drawn at random; item scores learn from all targets"""
    batch_targets: int = 512
    """number of target items in a batch, padding included"""
    num_beams: int = 75
    """number of paths that the search of the trained recommender keeps at every step"""
    validation_users: int | None = None
    """number of users for the validation after every epoch, None for all; the epoch with the best NDCG@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of the validation: standard, or filtered (without seen items and cold targets)"""
    part: Literal["train", "train+validation"] = "train"
    """training data. train+validation is for a final fit: without validation it keeps the last epoch"""
    precision: Precision = "fp32"
    """number format of products in the blocks' linear layers during training: the same for all layers, or ladq, which
    chooses one for each layer"""
    ladq: LadqConfig = field(default_factory=LadqConfig)
    """settings of precision ladq"""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=12, learning_rate=2e-3, weight_decay=0.1, patience=3)
    )
    recipe: str = "default"
    """default: the settings that measured best; paper: only what the paper describes. All stages of a fit need the same
    recipe; on the command line it sets the defaults of the other options"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("size", self.size in get_args(Size), f"one of {', '.join(get_args(Size))}"),
            ("history_layout", self.history_layout in get_args(HistoryLayout), "pooled or flat"),
            ("order", self.order in get_args(OrderPolicy), f"one of {get_args(OrderPolicy)}"),
            ("targets", self.targets in get_args(StepTargets), f"one of {get_args(StepTargets)}"),
            ("precision", self.precision in get_args(Precision), f"one of {get_args(Precision)}"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
            ("max_history", self.max_history >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("crss_fraction", 0 <= self.crss_fraction <= 1, "between 0 and 1"),
            ("num_negatives", self.num_negatives >= 1, "1 or more"),
            ("rows_from", self.rows_from >= 1, "1 or more"),
            ("token_weight", self.token_weight > 0, "above 0"),
            ("decoded_fraction", 0 < self.decoded_fraction <= 1, "above 0 and at most 1"),
            ("category_weight", self.category_weight >= 0, "0 or more"),
            ("batch_targets", self.batch_targets >= 1, "1 or more"),
            ("num_beams", self.num_beams >= 1, "1 or more"),
            ("validation_users", self.validation_users is None or self.validation_users >= 1, "1 or more, or None"),
            ("protocol", self.protocol in get_args(ProtocolName), "standard or filtered"),
        )

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of the loss by name; they are saved with the model, because alignment uses the same loss."""
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
        """Fields of `SearchConfig` for the trained model; a model trained in fixed order can only search in it."""
        order = "fixed" if self.order == "fixed" else "confidence"
        return {"order": order, "num_beams": self.num_beams}
