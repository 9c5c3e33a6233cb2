"""Pre-training: the model learns which item comes next, its tokens in any order, and its category at each step."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from reg4rec import loop
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.infer import Recommender
from reg4rec.kernels.beam_step.index import build_index
from reg4rec.loop import LoopConfig
from reg4rec.model import HistoryLayout, Reg4RecModel, Size, sized
from reg4rec.settings import override
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.item_loss import draw_negatives, item_loss
from reg4rec.train.losses import StepTargets, path_losses
from reg4rec.train.orders import OrderPolicy, draw_order
from reg4rec.train.windows import Batch, WindowBatches

__all__ = ["PretrainConfig", "pretrain"]


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
    """items drawn by popularity for the softmax of the item scores, shared by a batch"""
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
    """weight of the token and category losses beside the loss of the item scores"""
    category_weight: float = 0.5
    """alpha, the weight of the category loss beside the token loss (D6); 0 makes a model without a category head"""
    decoded_fraction: float = 0.25
    """part of a batch's targets whose tokens are decoded, drawn anew each time; item scores learn from all of them"""
    batch_targets: int = 512
    """target items in a batch, padding included"""
    num_beams: int = 50
    """paths that the trained recommender keeps at every step of its search"""
    validation_users: int = 2000
    """users on whom Recall and NDCG are measured after every epoch; the best NDCG@10 is kept"""
    part: Literal["train", "train+validation"] = "train"
    """train+validation is for a final fit: it has nothing to validate on and keeps the last epoch"""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=12, learning_rate=2e-3, weight_decay=0.1, patience=4)
    )

    def __post_init__(self) -> None:
        for name, ok, wanted in (
            ("order", self.order in get_args(OrderPolicy), f"one of {get_args(OrderPolicy)}"),
            ("targets", self.targets in get_args(StepTargets), f"one of {get_args(StepTargets)}"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
            ("max_history", self.max_history >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout <= 1, "between 0 and 1"),
            ("crss_fraction", 0 <= self.crss_fraction <= 1, "between 0 and 1"),
            ("num_negatives", self.num_negatives >= 1, "1 or more"),
            ("token_weight", self.token_weight > 0, "above 0"),
            ("decoded_fraction", 0 < self.decoded_fraction <= 1, "above 0 and at most 1"),
            ("category_weight", self.category_weight >= 0, "0 or more"),
            ("batch_targets", self.batch_targets >= 1, "1 or more"),
            ("num_beams", self.num_beams >= 1, "1 or more"),
            ("validation_users", self.validation_users >= 1, "1 or more"),
        ):
            if not ok:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

    @property
    def search(self) -> dict[str, Any]:
        """Fields of `SearchConfig` as the trained model wants them; one that has seen one order only knows no other."""
        order = "fixed" if self.order == "fixed" else "confidence"
        return {"order": order, "renormalize": self.renormalize, "num_beams": self.num_beams}


def pretrain(
    data: Dataset,
    tokenizer: Tokenizer,
    config: PretrainConfig | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    **overrides: Any,
) -> Reg4RecModel:
    """Train a model on a dataset whose items the tokenizer knows, and return it with its best weights.

    `out` is the run folder (see `reg4rec.loop`); with `resume` a killed run goes on from its last checkpoint.
    `overrides` replace fields of `config` or of its `loop` by name, `size="tiny"` or `epochs=5` for example.
    Paper: pre-training, stated, D4 and D6.
    """
    config = override(config or PretrainConfig(), overrides)
    chosen_device = loop.choose_device(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stage = PretrainStage(data, tokenizer, config, seed, chosen_device)
    loop.run(stage, config.loop, out, resume, seed, progress)
    return stage.module.eval()


class PretrainStage:
    """The stage that `reg4rec.loop` runs."""

    name = "pretrain"

    def __init__(self, data: Dataset, tokenizer: Tokenizer, config: PretrainConfig, seed: int, device: torch.device):
        known = tokenizer.card.get("dataset")
        if known != data.card["fingerprint"]:
            raise InputError(
                f"the tokenizer was fitted on another dataset (fingerprint {known}, this one is "
                f"{data.card['fingerprint']}); fit a tokenizer on this dataset"
            )
        self.data, self.config, self.seed = data, config, seed
        self.sequences = data.part(config.part)
        self.codes_IM = tokenizer.codes_IM.long().to(device)
        self.category_I = torch.from_numpy(data.items.categories_I).long().to(device)
        shape = sized(
            config.size,
            self.codes_IM.shape[1],
            tokenizer.config.codebook_size,
            len(data.items.category_names) if config.category_weight > 0 else 0,
            dropout=config.dropout,
            max_history=config.max_history,
            history_layout=config.history_layout,
            num_items=data.num_items if config.score_items else 0,
        )
        self.module: Reg4RecModel = Reg4RecModel(shape).to(device)
        # only items that were interacted with: the others keep a residual of 0 and are scored by their tokens
        self.popularity_I = torch.from_numpy(data.item_counts(config.part)).float().to(device)
        self.monitor = "validation_ndcg@10" if config.part == "train" else ""
        # shares the module's weights, so it always ranks with the present ones
        self.ranker = Recommender(
            self.module, tokenizer, data.items, data.item_counts("train"), prune_threshold=None, device=device
        ).with_search(**config.search)
        self.index = build_index(self.codes_IM, tokenizer.config.codebook_size)
        self.order: OrderPolicy = config.order
        self.settings: dict[str, Any] = {
            "stage": self.name,
            "dataset": data.card["fingerprint"],
            "tokens": hashlib.sha256(tokenizer.codes_IM.contiguous().numpy().tobytes()).hexdigest(),
            **{name: value for name, value in asdict(config).items() if name != "loop"},
        }

    def batches(self, epoch: int) -> Sequence[Batch]:
        first_crss = round(self.config.loop.epochs * (1 - self.config.crss_fraction))
        if self.config.order == "random":
            self.order = "crss" if epoch >= first_crss else "random"
        return WindowBatches(self.sequences, self.config.max_history + 1, self.config.batch_targets, self.seed, epoch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        items_BL = batch.items_BL.to(self.codes_IM.device)
        filled_BL, rows_BL = items_BL >= 0, items_BL.clamp(min=0)
        codes_BLM = self.codes_IM[rows_BL]
        memory_BSD, number_S = self.module.encode(codes_BLM[:, :-1], rows_BL[:, :-1])

        column_T = self._decoded_columns(items_BL.shape[1])
        codes_BTM, filled_BT = codes_BLM[:, column_T], filled_BL[:, column_T]
        index = self.index if self.config.renormalize else None
        order_BTM = draw_order(self.order, self.module, memory_BSD, number_S, codes_BTM, column_T, index)
        states_BTSD = self.module.decode_on(memory_BSD, number_S, codes_BTM, order_BTM, column_T)
        category_BT = self.category_I[rows_BL[:, column_T]]
        losses = path_losses(
            self.module,
            states_BTSD[filled_BT],
            codes_BTM[filled_BT],
            order_BTM[filled_BT],
            category_BT[filled_BT],
            self.config.targets,
            index,
        )
        total = losses["token_loss"]
        if "category_loss" in losses:
            total = total + self.config.category_weight * losses["category_loss"]
        if self.config.score_items:
            states_BLD = memory_BSD[:, :: self.module.slots_per_item]
            negatives_X, expected_X = draw_negatives(self.popularity_I, self.config.num_negatives)
            losses["item_loss"] = item_loss(self.module, states_BLD, items_BL, self.codes_IM, negatives_X, expected_X)
            total = losses["item_loss"] + self.config.token_weight * total
        return {"loss": total, **losses}

    def _decoded_columns(self, length: int) -> Tensor:
        """Places in the windows, ascending; the longest window of a batch has them all."""
        count = max(1, round(length * self.config.decoded_fraction))
        chosen = torch.randperm(length)[:count].sort().values
        return chosen.to(self.codes_IM.device)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        if not self.monitor:
            return {}
        report = evaluate(
            self.ranker, self.data, "validation", ks=(10,), max_users=self.config.validation_users, seed=self.seed
        )
        return {f"validation_{name}": value for name, value in report.rows[0].metrics.items()}
