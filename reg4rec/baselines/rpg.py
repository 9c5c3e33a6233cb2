"""RPG: items with many unordered tokens, which are predicted in parallel from the history (Hou et al. 2025)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec import distributed, loop, ops
from reg4rec.baselines.sasrec_network import CausalNetwork
from reg4rec.baselines.saved import load_network, save_network
from reg4rec.baselines.stage import NetworkStage
from reg4rec.data import Dataset, ItemCatalog, Sequences, ViewConfig
from reg4rec.evaluation import ProtocolName
from reg4rec.loop import LoopConfig
from reg4rec.model import padded
from reg4rec.run import Run, choose_device
from reg4rec.settings import check_settings, override
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer
from reg4rec.train.windows import Batch

__all__ = ["Rpg", "RpgConfig"]

VERSION = 1
USERS_AT_ONCE = 512
"""Number of users ranked together."""

Int32 = npt.NDArray[np.int32]


def _tokenizer() -> TokenizerConfig:
    """Optimized product quantization of item texts: 16 codebooks of 256 codewords."""
    return TokenizerConfig(
        recipe="rpg",
        kind="product-k-means",
        num_codebooks=16,
        codebook_size=256,
        views=ViewConfig(collaborative_dim=0),
    )


@dataclass(frozen=True)
class RpgConfig:
    """Settings of RPG: tokens, network and training."""

    dim: int = 128
    """width of embeddings and states"""
    num_blocks: int = 2
    """number of transformer blocks"""
    num_heads: int = 2
    """number of attention heads"""
    ffn_dim: int = 512
    """hidden width of the feed-forward layers"""
    dropout: float = 0.3
    """dropout rate in embeddings, attention and feed-forward layers"""
    max_history: int = 50
    """the network reads this many of the newest items of a history"""
    temperature: float = 0.07
    """divides the cosines of heads and tokens"""
    batch_targets: int = 256
    """number of target items in a batch, padding included"""
    validation_users: int | None = None
    """number of users for the validation after every epoch, None for all; the epoch with the best NDCG@10 is kept"""
    protocol: ProtocolName = "standard"
    """protocol of the validation: standard, or filtered (without seen items and cold targets)"""
    part: Literal["train", "train+validation"] = "train"
    """training data. train+validation is for a final fit: without validation it keeps the last epoch"""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=15, learning_rate=3e-3, weight_decay=0.1, patience=3)
    )
    tokenizer: TokenizerConfig = field(default_factory=_tokenizer)
    """tokenizer of any kind; the order of tokens has no effect"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("dim", self.dim >= 2, "2 or more"),
            ("num_blocks", self.num_blocks >= 1, "1 or more"),
            ("num_heads", self.num_heads >= 1 and self.dim % (2 * self.num_heads) == 0, "a divisor of dim / 2"),
            ("ffn_dim", self.ffn_dim >= 1, "1 or more"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
            ("max_history", self.max_history >= 1, "1 or more"),
            ("temperature", 0 < self.temperature < np.inf, "positive"),
            ("batch_targets", self.batch_targets >= 1, "1 or more"),
            ("validation_users", self.validation_users is None or self.validation_users >= 1, "1 or more, or None"),
            ("protocol", self.protocol in get_args(ProtocolName), "standard or filtered"),
            ("part", self.part in ("train", "train+validation"), "train or train+validation"),
        )

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "RpgConfig":
        """Settings from the JSON of `dataclasses.asdict`."""
        own = {"loop": LoopConfig(**stored["loop"]), "tokenizer": TokenizerConfig.from_json(stored["tokenizer"])}
        return cls(**{**stored, **own})


class RpgNetwork(CausalNetwork):
    """Embeds items as the mean of their token embeddings; one head per codebook scores its tokens by cosine."""

    codes_IM: Tensor

    def __init__(self, codes_IM: Tensor, config: RpgConfig):
        super().__init__()
        c, num_codebooks = config, codes_IM.shape[1]
        self.register_buffer("codes_IM", codes_IM)
        shape = (num_codebooks, c.tokenizer.codebook_size, c.dim)
        self.tokens_MKD = nn.Parameter(torch.empty(shape).normal_(std=c.dim**-0.5))
        self.add_layers(c.dim, c.num_blocks, c.num_heads, c.ffn_dim, c.dropout)
        self.heads = nn.Linear(c.dim, num_codebooks * c.dim)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.temperature = c.temperature

    def embed(self, items: Tensor) -> Tensor:
        num_codebooks, size, _ = self.tokens_MKD.shape
        first_M = torch.arange(num_codebooks, device=items.device) * size
        return F.embedding(self.codes_IM[items] + first_M, self.tokens_MKD.flatten(0, 1)).mean(-2)

    def token_logits(self, states_TD: Tensor) -> Tensor:
        """(T, M, K): logits of all tokens after each state."""
        heads_TMD = states_TD[:, None] + F.silu(self.heads(states_TD)).unflatten(1, (len(self.tokens_MKD), -1))
        cosines_MTK = F.normalize(heads_TMD, dim=-1).transpose(0, 1) @ F.normalize(self.tokens_MKD, dim=-1).mT
        return cosines_MTK.transpose(0, 1) / self.temperature


class Rpg:
    """Ranks all items by the sum of the log-probabilities of their tokens; made by `fit`.

    As in Hou et al. 2025 (arXiv 2506.05781): tokens by optimized product quantization of item texts, items embedded as
    the mean of their token embeddings, and one head per codebook that predicts the next item's token from the state
    alone. Differences: all items are scored instead of searched in a graph of similar items, and the transformer,
    training windows and optimizer are this library's.
    """

    name = "rpg"

    def __init__(self, network: RpgNetwork, items: ItemCatalog, config: RpgConfig, device: str | torch.device = "auto"):
        self.device = choose_device(device)
        self.network, self.items, self.config = network.to(self.device).eval(), items, config

    @classmethod
    def fit(cls, dataset: Dataset, config: RpgConfig | None = None, run: Run = Run(), **overrides: Any) -> "Rpg":
        """Fit tokens, train on `config.part` of a dataset and keep the epoch with the best validation NDCG@10.

        Writes to tokenizer/ and model/ in `run.out`; a killed run resumes from its last checkpoint. `overrides` replace
        fields of `config`, of its `loop` or of its `tokenizer` by name. InputError for codebooks with more codewords
        than items.
        """
        config = override(config or RpgConfig(), overrides)
        tokenizer = fit_tokenizer(dataset, config.tokenizer, run.stage("tokenizer"), config.part)
        with run.seeded():
            network = RpgNetwork(tokenizer.codes_IM, config)
        model = cls(network, dataset.items, config, run.device)
        loop.train(_Stage(model, dataset, run.seed), config.loop, run.stage("model"))
        network.eval()
        return model

    @property
    def trained_on(self) -> str:
        return self.config.part

    @torch.inference_mode()
    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """Item rows (B, k), best first, ties by lowest row, padded with -1."""
        ranked = [np.empty((0, k), dtype=np.int32)]
        for batch in histories.batches(USERS_AT_ONCE):
            states_BD = self.network.states_after(batch.last(self.config.max_history))
            log_probs_BMK = self.network.token_logits(states_BD).log_softmax(-1)
            seen_BX = padded(batch, -1).to(self.device) if filter_seen else None
            ranked.append(ops.item_topk(log_probs_BMK, self.network.codes_IM, k, seen_BX)[1].cpu().int().numpy())
        return np.concatenate(ranked)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the recommender, replacing an earlier one."""
        save_network(folder, self.name, VERSION, self.network, self.items, self.config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto") -> "Rpg":
        """The RPG saved in a folder; InputError if files are missing, damaged or do not fit together."""
        found = load_network(folder, cls.name, VERSION, "RPG", RpgConfig.from_json, _untrained)
        return cls(*found, device)


def _untrained(num_items: int, config: RpgConfig) -> RpgNetwork:
    return RpgNetwork(torch.zeros(num_items, config.tokenizer.tokens_per_item, dtype=torch.int32), config)


class _Stage(NetworkStage):
    """RPG's training for `reg4rec.loop`."""

    module: RpgNetwork

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        items_BL, weight_BL = self.share_of(batch)
        filled_BL = items_BL >= 0
        states_TD = self.module(items_BL[:, :-1].clamp(min=0))[filled_BL]
        codes_TM = self.module.codes_IM[items_BL[filled_BL]].long()
        losses_TM = F.cross_entropy(self.module.token_logits(states_TD).mT, codes_TM, reduction="none")
        losses_T = losses_TM.mean(1)
        return {"loss": distributed.mean(losses_T if weight_BL is None else losses_T * weight_BL[filled_BL])}
