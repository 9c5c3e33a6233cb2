"""Pre-training: the model learns the next item, the item's tokens in any order, and its category after each token."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from reg4rec import distributed, loop, ops
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, check_targets
from reg4rec.model import Reg4RecModel, sized
from reg4rec.precision.fp8_counts import Fp8Watch
from reg4rec.precision.ladq import Ladq, linear_layers, set_formats
from reg4rec.recommend import Recommender
from reg4rec.run import Run, choose_device
from reg4rec.settings import check_same_recipe, override
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.config import PretrainConfig
from reg4rec.train.item_loss import ItemSampler, draw_negatives, item_loss
from reg4rec.train.losses import path_losses
from reg4rec.train.orders import OrderPolicy, draw_order
from reg4rec.train.validation import validate
from reg4rec.train.windows import Batch, WindowBatches, target_weights

__all__ = ["pretrain"]


def pretrain(
    data: Dataset,
    tokenizer: Tokenizer,
    config: PretrainConfig | None = None,
    run: Run = Run(),
    stage: "type[PretrainStage] | None" = None,
    **overrides: Any,
) -> Reg4RecModel:
    """Train a model on the dataset of the tokenizer and return it with the weights of the best epoch.

    `run.out` is the run folder (see `reg4rec.loop`); with `run.resume` a killed run continues from its last checkpoint.
    `overrides` replace fields of `config` or of its `loop` by name, for example `size="tiny"` or `epochs=5`. `stage`: a
    subclass of `PretrainStage` with another `name` and, for example, another `loss` (examples/extend.py). InputError
    for tokens of another dataset or another recipe.
    Paper: pre-training, stated, D4 and D6.
    """
    config = override(config or PretrainConfig(), overrides)
    check_same_recipe(tokenizer.config.recipe, config.recipe)
    if stage not in (None, PretrainStage) and stage.name == PretrainStage.name:
        raise InputError(
            f"the stage {stage.__name__} is named {stage.name!r} like the usual one; give it another `name`"
        )
    if config.precision == "ladq" and distributed.world() > 1:
        raise InputError(
            "precision is 'ladq', which works in a single process only; use another precision with several processes"
        )
    with run.seeded():
        trained = (stage or PretrainStage)(data, tokenizer, config, run.seed, choose_device(run.device))
    layers = linear_layers(trained.module)
    controller: loop.Controller | None = None
    if config.precision == "ladq":
        controller = Ladq(trained.module, config.ladq)
    elif config.precision == "fp8":
        controller = Fp8Watch(layers, config.ladq.sample_every)
    set_formats(layers, "fp32" if config.precision == "ladq" else config.precision)
    loop.train(trained, config.loop, run, controller)
    trained.module.row_tables = ()
    set_formats(layers, "fp32")
    return trained.module.eval()


class PretrainStage:
    """The pre-training stage that `reg4rec.loop` runs.

    `module` is the model. `loss` returns the loss of a batch (item rows, padded with -1), and further values to log, by
    name. Give a subclass that changes the training another `name`: run folders of other names are refused.
    """

    name = "pretrain"

    def __init__(
        self,
        data: Dataset,
        tokenizer: Tokenizer,
        config: PretrainConfig,
        seed: int,
        device: torch.device,
        model: Reg4RecModel | None = None,
    ):
        """Trains a new model, or continues to train `model`."""
        known = tokenizer.card.get("dataset")
        if known != data.card["fingerprint"]:
            raise InputError(
                f"the tokenizer was fitted on another dataset (fingerprint {known}, this one is "
                f"{data.card['fingerprint']}); fit a tokenizer on this dataset"
            )
        if config.part == "train" and tokenizer.card.get("part", "train") != "train":
            raise InputError(
                f"the tokenizer was fitted on {tokenizer.card['part']}, so its tokens contain the validation items; "
                "fit a tokenizer on the training part"
            )
        self.data, self.config, self.seed = data, config, seed
        self.sequences, self.weights = data.part(config.part), target_weights(data, config.part)
        self.codes_IM = tokenizer.codes_IM.long().to(device)
        self.category_I = torch.from_numpy(data.items.categories_I).long().to(device)
        self.module: Reg4RecModel = (model or _new_model(data, tokenizer, config)).to(device)
        self.module.catalog = tokenizer.catalog_fingerprint(data.items)
        if self.module.scores_items and len(data.items) >= config.rows_from and distributed.world() == 1:
            self.module.row_tables = ("residual_ID",)
        # items without interactions are never drawn as negatives: they keep a residual of 0 and count by their tokens
        self.sampler = ItemSampler.of(torch.from_numpy(data.item_counts(config.part)).float().to(device))
        self.monitor = "validation_ndcg@10" if config.part == "train" else ""
        if self.monitor:
            check_targets(data, "validation", config.protocol)
        # shares the module's weights, so it always ranks with the present ones
        self.recommender = Recommender(
            self.module,
            tokenizer,
            data.items,
            data.item_counts("train"),
            device=device,
            prune_threshold=None,
            **config.search,
        )
        self.index = ops.TokenIndex.build(self.codes_IM, tokenizer.config.codebook_size)
        self.order: OrderPolicy = config.order
        self.settings: dict[str, Any] = {
            "stage": PretrainStage.name,
            **({} if self.name == PretrainStage.name else {"variation": self.name}),
            "dataset": data.card["fingerprint"],
            "tokens": hashlib.sha256(tokenizer.codes_IM.contiguous().numpy().tobytes()).hexdigest(),
            **{name: value for name, value in asdict(config).items() if name != "loop"},
        }

    def batches(self, epoch: int) -> Sequence[Batch]:
        if self.config.order == "random" and self.config.crss_fraction:
            first_crss = round(self.config.loop.epochs * (1 - self.config.crss_fraction))
            self.order = "crss" if epoch >= first_crss else "random"
        c = self.config
        return WindowBatches(self.sequences, c.max_history + 1, c.batch_targets, self.seed, epoch, self.weights)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        items_BL = batch.items_BL[distributed.share()].to(self.codes_IM.device)
        filled_BL, rows_BL = items_BL >= 0, items_BL.clamp(min=0)
        weight_BL = None if batch.weight_BL is None else batch.weight_BL[distributed.share()].to(items_BL.device)
        codes_BLM = self.codes_IM[rows_BL]
        memory_BJD, number_J = self.module.encode(codes_BLM[:, :-1], rows_BL[:, :-1])

        column_T = self._decoded_columns(items_BL.shape[1])
        codes_BTM, filled_BT = codes_BLM[:, column_T], filled_BL[:, column_T]
        index = self.index if self.config.renormalize else None
        num_rows = len(batch.items_BL)
        order_BTM = draw_order(self.order, self.module, memory_BJD, number_J, codes_BTM, column_T, index, num_rows)
        states_BTSD = self.module.decode_on(memory_BJD, number_J, codes_BTM, order_BTM, column_T)
        category_BT = self.category_I[rows_BL[:, column_T]]
        losses = path_losses(
            self.module,
            states_BTSD[filled_BT],
            codes_BTM[filled_BT],
            order_BTM[filled_BT],
            category_BT[filled_BT],
            self.config.targets,
            index,
            None if weight_BL is None else weight_BL[:, column_T][filled_BT],
        )
        total = losses["token_loss"]
        if "category_loss" in losses:
            total = total + self.config.category_weight * losses["category_loss"]
        if self.config.score_items:
            states_BLD = memory_BJD[:, :: self.module.slots_per_item]
            negatives_X, expected_X = draw_negatives(self.sampler, self.config.num_negatives)
            bias = self.module.repeat_bias
            losses["item_loss"] = item_loss(self._embed, bias, states_BLD, items_BL, negatives_X, expected_X, weight_BL)
            total = losses["item_loss"] + self.config.token_weight * total
        return {"loss": total, **losses}

    def _embed(self, rows_T: Tensor) -> Tensor:
        return self.module.embed_items(self.codes_IM[rows_T], rows_T)

    def _decoded_columns(self, length: int) -> Tensor:
        """Random columns of the windows whose items are decoded, ascending; `length` is that of the longest window."""
        count = max(1, round(length * self.config.decoded_fraction))
        chosen = torch.randperm(length, generator=distributed.shared_generator("cpu"))[:count].sort().values
        return chosen.to(self.codes_IM.device)

    def end_epoch(self, epoch: int) -> loop.Validation:
        """Validation metrics; those of the first epoch include the NDCG@10 of popularity on the same users."""
        if not self.monitor:
            return loop.Validation({})
        found = self._validate(self.recommender)
        if epoch > 0:
            return found
        popularity = self._validate(Popularity.fit(self.data)).metrics[self.monitor]
        return found._replace(metrics=found.metrics | {"popularity_ndcg@10": popularity})

    def _validate(self, ranker: Ranker) -> loop.Validation:
        c = self.config
        return validate(ranker, self.data, self.monitor, c.protocol, c.validation_users, self.seed)


def _new_model(data: Dataset, tokenizer: Tokenizer, config: PretrainConfig) -> Reg4RecModel:
    shape = sized(
        config.size,
        tokenizer.codes_IM.shape[1],
        tokenizer.config.codebook_size,
        len(data.items.category_names) if config.category_weight > 0 else 0,
        dropout=config.dropout,
        max_history=config.max_history,
        history_layout=config.history_layout,
        renormalize=config.renormalize,
        num_items=data.num_items if config.score_items else 0,
    )
    model = Reg4RecModel(shape)
    model.trained_by = config.loss_settings
    return model
