"""SASRec: self-attention over item ids, trained by a sampled softmax (Kang & McAuley 2018)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg4rec import distributed, loop, ops
from reg4rec.baselines.sasrec_network import SASRecNetwork
from reg4rec.baselines.saved import load_network, save_network
from reg4rec.baselines.stage import NetworkStage
from reg4rec.data import Dataset, ItemCatalog, ItemViews, Sequences, ViewConfig
from reg4rec.evaluation import ProtocolName
from reg4rec.loop import LoopConfig
from reg4rec.model import padded, weights_state
from reg4rec.recommend.checks import check_number
from reg4rec.recommend.filters import Unknown, allowed_rows
from reg4rec.recommend.histories import read_histories
from reg4rec.recommend.table import Frame, as_frame, results_arrow
from reg4rec.run import Run, choose_device
from reg4rec.search.ranking import ranked_by_score
from reg4rec.settings import check_settings, override
from reg4rec.train.item_loss import ItemSampler, draw_negatives, item_loss, sampled_softmax_loss
from reg4rec.train.windows import Batch

__all__ = ["SASRec", "SASRecConfig"]

VERSION = 3
USERS_AT_ONCE = 512
"""Number of users ranked together."""

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SASRecConfig:
    """Settings of SASRec: network and training."""

    dim: int = 64
    """width of embeddings and states"""
    num_blocks: int = 1
    """number of transformer blocks"""
    num_heads: int = 1
    """number of attention heads"""
    ffn_dim: int = 256
    """hidden width of the feed-forward layers"""
    dropout: float = 0.5
    """dropout rate in embeddings, attention and feed-forward layers"""
    max_history: int = 50
    """the network reads this many of the newest items of a history"""
    num_negatives: int = 256
    """number of negative items for the softmax, drawn by popularity and shared by a batch"""
    batch_targets: int = 256
    """number of target items in a batch, padding included"""
    item_vectors: bool = False
    """add to each item's embedding a learned projection of its `views`"""
    repeat_bias: bool = False
    """learn a bias for the scores of items in the history, and count these items exactly in the softmax"""
    views: ViewConfig = field(default_factory=ViewConfig)
    """item views for `item_vectors`, by default those of the tokenizer: texts and collaborative vectors"""
    validation_users: int | None = None
    """number of users for the validation after every epoch, None for all; the epoch with the best NDCG@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of the validation: standard, or filtered (without seen items and cold targets)"""
    part: Literal["train", "train+validation"] = "train"
    """training data. train+validation is for a final fit: without validation it keeps the last epoch"""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=12, learning_rate=3e-3, weight_decay=0.3, patience=3)
    )

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("dim", self.dim >= 2, "2 or more"),
            ("num_blocks", self.num_blocks >= 1, "1 or more"),
            ("num_heads", self.num_heads >= 1 and self.dim % (2 * self.num_heads) == 0, "a divisor of dim / 2"),
            ("ffn_dim", self.ffn_dim >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("max_history", self.max_history >= 1, "1 or more"),
            ("num_negatives", self.num_negatives >= 1, "1 or more"),
            ("batch_targets", self.batch_targets >= 1, "1 or more"),
            *(
                (name, isinstance(getattr(self, name), bool), "True or False")
                for name in ("item_vectors", "repeat_bias")
            ),
            ("validation_users", self.validation_users is None or self.validation_users >= 1, "1 or more, or None"),
            ("protocol", self.protocol in get_args(ProtocolName), "standard or filtered"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
        )

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "SASRecConfig":
        """Settings from the JSON of `dataclasses.asdict`."""
        views: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["views"].items()}
        return cls(**{**stored, "views": ViewConfig(**views), "loop": LoopConfig(**stored["loop"])})


class SASRec:
    """Ranks all items by their score after a history; made by `fit` or `from_pretrained`."""

    name = "sasrec"

    def __init__(
        self, network: SASRecNetwork, items: ItemCatalog, config: SASRecConfig, device: str | torch.device = "auto"
    ):
        self.device = choose_device(device)
        self.network, self.items, self.config = network.to(self.device).eval(), items, config
        self._kept: tuple[tuple[object, ...], ops.ItemVectors] | None = None

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        config: SASRecConfig | None = None,
        run: Run = Run(),
        **overrides: Any,
    ) -> "SASRec":
        """Train on `config.part` of a dataset and keep the epoch with the best validation NDCG@10.

        `run.out` is the run folder (see `reg4rec.loop`); a killed run resumes from its last checkpoint. `overrides`
        replace fields of `config` or of its `loop` by name, such as `dim=32` or `epochs=5`.
        """
        config = override(config or SASRecConfig(), overrides)
        views_IV = None
        if config.item_vectors:
            views = ItemViews.fit(dataset, config.views, config.part, run.seed)
            views_IV = torch.from_numpy(views.vectors_IV)
        with run.seeded():
            network = _build(dataset.num_items, config, views_IV)
        model = cls(network, dataset.items, config, run.device)
        loop.train(_Stage(model, dataset, run.seed), config.loop, run)
        network.eval().fold()
        return model

    @property
    def trained_on(self) -> str:
        return self.config.part

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """Item rows (B, k), best first, ties by lowest row, padded with -1."""
        return self._best(histories, k, filter_seen, None)[1].cpu().numpy().astype(np.int32)

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Iterable[Any] | None = None,
        candidates: Iterable[Any] | None = None,
        unknown: Unknown = "ignore",
        to: Frame = "arrow",
    ) -> Any:
        """The best `k` items for every user, as by `Recommender.recommend` but without paths."""
        check_number(k)
        users, sequences = read_histories(histories, self.items)
        allowed = allowed_rows(self.items, exclude, candidates, unknown)
        scores_BN, items_BN = self._best(sequences, k, filter_seen, allowed)
        ranking = ranked_by_score(scores_BN, items_BN)
        return as_frame(results_arrow(users, self.items, [(ranking, None)]), to)

    @torch.inference_mode()
    def _best(self, histories: Sequences, k: int, filter_seen: bool, allowed: Int32 | None) -> tuple[Tensor, Tensor]:
        """Scores and rows (B, k) of the best allowed items, computed for a bounded number of users at a time."""
        words = None
        if allowed is not None:
            allowed_I = torch.zeros(len(self.items), dtype=torch.bool, device=self.device)
            words = ops.allowed_words(allowed_I.index_fill_(0, torch.from_numpy(allowed).long(), True)[None])
        repeat_bias = self.network.repeat_bias
        bias = None if filter_seen or repeat_bias is None else float(repeat_bias)
        scores, rows = [torch.empty(0, k)], [torch.empty(0, k, dtype=torch.int64)]
        for batch in histories.batches(USERS_AT_ONCE):
            seen_BX = None if not filter_seen and bias is None else padded(batch, -1).to(self.device)
            states_BD = self.network.states_after(batch.last(self.config.max_history))
            best = ops.score_topk(states_BD, self._vectors(), k, words, seen_BX, bias)
            scores.append(best[0].cpu())
            rows.append(best[1].cpu())
        return torch.cat(scores), torch.cat(rows)

    def _vectors(self) -> ops.ItemVectors:
        """The item embeddings in the form for scanning, rebuilt after a change of the weights."""
        state = weights_state([self.network.items_ID])
        if self._kept is None or self._kept[0] != state:
            # a reference keeps the weight alive, so no other tensor can get its address
            self._kept = state, ops.ItemVectors.build(self.network.item_vectors().detach())
        return self._kept[1]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the recommender, replacing an earlier one."""
        save_network(folder, self.name, VERSION, self.network, self.items, self.config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> "SASRec":
        """The SASRec saved in a folder; InputError if files are missing, damaged or do not fit together."""
        found = load_network(folder, cls.name, VERSION, "SASRec", SASRecConfig.from_json, _build)
        return cls(*found, device)


def _build(num_items: int, config: SASRecConfig, views_IV: Tensor | None = None) -> SASRecNetwork:
    """A network to train, or, without views, one for loading weights that were trained and folded."""
    c = config
    shape = (num_items, c.dim, c.num_blocks, c.num_heads, c.ffn_dim, c.dropout)
    return SASRecNetwork(*shape, views_IV, c.repeat_bias)


class _Stage(NetworkStage):
    """SASRec's training for `reg4rec.loop`."""

    module: SASRecNetwork

    def __init__(self, model: SASRec, data: Dataset, seed: int):
        super().__init__(model, data, seed)
        # plus one, so that items without interactions are drawn as negatives too
        counts_I = torch.from_numpy(data.item_counts(model.config.part) + 1.0).float()
        self.sampler = ItemSampler.of(counts_I.to(model.device))
        self.num_negatives, self.item_vectors = model.config.num_negatives, model.config.item_vectors

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        items_BL, weight_BL = self.share_of(batch)
        filled_BL = items_BL >= 0
        states_BLD = self.module(items_BL[:, :-1].clamp(min=0))
        negatives_X, expected_X = draw_negatives(self.sampler, self.num_negatives)
        if (bias := self.module.repeat_bias) is not None:
            embed = self.module.embed
            return {"loss": item_loss(embed, bias, states_BLD, items_BL, negatives_X, expected_X, weight_BL)}
        vectors_ID: Tensor = self.module.items_ID
        target_T = items_BL[filled_BL]
        if self.item_vectors:  # embed only the items of the batch
            rows_X, place_X = torch.cat([target_T, negatives_X]).unique(return_inverse=True)
            vectors_ID, count = self.module.embed(rows_X), len(target_T)
            target_T, negatives_X = place_X[:count], place_X[count:]
        losses_T = sampled_softmax_loss(states_BLD[filled_BL], vectors_ID, target_T, negatives_X, expected_X)
        return {"loss": distributed.mean(losses_T if weight_BL is None else losses_T * weight_BL[filled_BL])}
