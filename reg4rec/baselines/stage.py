"""Base class for training the networks of baselines in the training loop."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reg4rec import distributed
from reg4rec.data import Dataset
from reg4rec.evaluation import Ranker, check_targets
from reg4rec.loop import Validation
from reg4rec.train.validation import validate
from reg4rec.train.windows import Batch, WindowBatches, target_weights

__all__ = ["NetworkStage"]


class NetworkRanker(Ranker, Protocol):
    """A ranker with a network over item rows; `config` must have the settings of SASRecConfig that are used here."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def config(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...


class NetworkStage:
    """A stage of `reg4rec.loop` over windows of item rows, validated after every epoch; subclasses define `loss`."""

    module: nn.Module

    def __init__(self, ranker: NetworkRanker, data: Dataset, seed: int):
        self.name, self.ranker, self.data, self.seed = ranker.name, ranker, data, seed
        self.module, self.config = ranker.network, ranker.config
        self.monitor = "validation_ndcg@10" if self.config.part == "train" else ""
        self.settings: dict[str, Any] = {
            "stage": self.name,
            "dataset": data.card["fingerprint"],
            **{name: value for name, value in asdict(self.config).items() if name != "loop"},
        }
        if self.monitor:
            check_targets(data, "validation", self.config.protocol)
        self.sequences, self.weights = data.part(self.config.part), target_weights(data, self.config.part)

    def batches(self, epoch: int) -> Sequence[Batch]:
        c = self.config
        return WindowBatches(self.sequences, c.max_history + 1, c.batch_targets, self.seed, epoch, self.weights)

    def share_of(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """This process's rows of a batch, on the device: items (B, L) padded with -1, and their target weights."""
        items_BL, weight_BL = batch.items_BL[distributed.share()].to(self.ranker.device), batch.weight_BL
        return items_BL, None if weight_BL is None else weight_BL[distributed.share()].to(items_BL.device)

    def end_epoch(self, epoch: int) -> Validation:
        if not self.monitor:
            return Validation({})
        c = self.config
        return validate(self.ranker, self.data, self.monitor, c.protocol, c.validation_users, self.seed)
