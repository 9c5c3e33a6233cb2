"""An epoch of pre-training by number format, compared with a plain trainer of the same model and losses in fp32.

The plain trainer takes 64 users at a time in random order and pads them to the longest history, uses eager ops and
torch's dropout and AdamW, and reads the loss after every step. Items and codes are synthetic, lengths are as skewed as
those of Amazon reviews: only times and memory mean something.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from bench.conftest import Timed, long
from reg4rec import distributed, loop, ops
from reg4rec.data import Dataset, Sequences, ViewConfig, synthetic_shop
from reg4rec.model import Format, Reg4RecModel, Size, sized
from reg4rec.model.layers import Dropout
from reg4rec.precision.ladq import Ladq, LadqConfig, linear_layers, set_formats
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig
from reg4rec.train.item_loss import ItemSampler
from reg4rec.train.pretrain import PretrainStage
from reg4rec.train.windows import Batch

USERS = {"tiny": 256, "small": 512, "base": 256, "large": 1024}
PLAIN_USERS = 64

Epoch = Callable[[], float]
Watch = Callable[[torch.Tensor], None]


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    items = synthetic_shop(num_users=1, num_items=4000, num_facets=4, num_values=8).items
    lengths = 4 + rng.lognormal(1.2, 1.0, max(USERS.values())).astype(int)
    histories = Sequences.from_lists(rng.integers(0, len(items), length) for length in lengths)
    return Dataset.build("lengths", pa.array([str(u) for u in range(len(lengths))]), histories, items, card={})


@pytest.fixture(scope="module")
def tokenizer(data: Dataset) -> Tokenizer:
    views = ViewConfig(text_dim=32, collaborative_dim=0)
    kind = TokenizerConfig(kind="product-k-means", num_codebooks=4, codebook_size=256, codeword_dim=8, views=views)
    return fit_tokenizer(data, kind, Run(progress=False))


def new_stage(data: Dataset, tokenizer: Tokenizer, size: Size, device: str) -> PretrainStage:
    torch.manual_seed(0)
    stage = PretrainStage(data, tokenizer, PretrainConfig(size=size), 0, torch.device(device))
    stage.sequences = stage.sequences.take(range(USERS[size]))
    stage.module.train()
    return stage


def train_on(batch: Batch, stage: PretrainStage, optimizer: loop.RowAdamW, watch: Watch | None = None) -> torch.Tensor:
    """A step of `reg4rec.loop`; `watch` sees the loss between the gradients and the update."""
    loss = stage.loss(batch)["loss"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if watch:
        watch(loss)
    distributed.clip_grad_norm(stage.module, stage.config.loop.max_grad_norm)
    optimizer.step()
    return loss.detach()


def trainer(stage: PretrainStage, precision: str) -> Epoch:
    """An epoch with the steps of `reg4rec.loop`, without its files."""
    optimizer, steps = loop.make_optimizer(stage.module, stage.config.loop), count()
    layers = linear_layers(stage.module)
    ladq = Ladq(stage.module, LadqConfig()) if precision == "ladq" else None
    set_formats(layers, "fp32" if ladq else cast("Format", precision))

    def take(batch: Batch, step: int) -> torch.Tensor:
        if ladq is None:
            return train_on(batch, stage, optimizer)
        ladq.before_forward(step)
        return train_on(batch, stage, optimizer, partial(ladq.after_backward, step))

    def epoch() -> float:
        return float(torch.stack([take(batch, next(steps)) for batch in stage.batches(0)]).mean())

    if ladq:
        # LADQ assigns formats before the first round, on a batch of full size
        take(max(stage.batches(0), key=lambda batch: batch.items_BL.numel()), ladq.config.sample_every - 1)
    return epoch


def plain_trainer(stage: PretrainStage) -> Epoch:
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=stage.config.loop.learning_rate)
    for module in stage.module.modules():
        if isinstance(module, Dropout):
            module.__class__ = nn.Dropout  # type: ignore[assignment]

    def epoch() -> float:
        losses = []
        with ops.use_backend("eager"):
            for batch in padded_batches(stage.sequences, stage.config.max_history + 1):
                loss = stage.loss(batch)["loss"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(stage.module.parameters(), stage.config.loop.max_grad_norm)
                optimizer.step()
                losses.append(loss.item())
        return sum(losses) / len(losses)

    return epoch


def padded_batches(sequences: Sequences, window: int) -> Iterator[Batch]:
    order = np.random.default_rng(0).permutation(len(sequences))
    for first in range(0, len(order), PLAIN_USERS):
        rows: Sequence[torch.Tensor] = [
            torch.from_numpy(sequences[int(user)][-window:].astype(np.int64))
            for user in order[first : first + PLAIN_USERS]
        ]
        yield Batch(nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-1))


@pytest.mark.parametrize("how", ["plain", "fp32", "bf16", "fp8", "ladq"])
@pytest.mark.parametrize("size", ["tiny", *long("small", "base", "large")])
def bench_train(
    timed: Timed,
    data: Dataset,
    tokenizer: Tokenizer,
    size: Size,
    how: str,
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if size == "large" and device == "cpu":
        pytest.skip("an epoch of this size takes minutes on a CPU")
    if how == "fp8" and device == "cpu":
        pytest.skip("the CPU has no fp8 products; the eager definition is slower than fp32")
    monkeypatch.setenv("REG4REC_CACHE", str(tmp_path))  # so that LADQ measures format costs now
    stage = new_stage(data, tokenizer, size, device)
    epoch = plain_trainer(stage) if how == "plain" else trainer(stage, how)
    loss = timed(epoch, f"train/{size}/{device}", how, 0, 0, device)
    assert 0 < loss < 20


class RandomStage(PretrainStage):
    """Batches of random histories over any number of random items; residuals are trained by row or by AdamW."""

    def __init__(self, num_items: int, by_row: bool):
        draw = torch.Generator().manual_seed(0)
        self.config = PretrainConfig(rows_from=1 if by_row else num_items + 1)
        shape = sized("small", 4, 256, 16, num_items=num_items, dropout=self.config.dropout, renormalize=True)
        self.module = Reg4RecModel(shape).train()
        self.module.row_tables = ("residual_ID",) if by_row else ()
        self.codes_IM = torch.randint(256, (num_items, 4), generator=draw)
        self.category_I = torch.randint(16, (num_items,), generator=draw)
        self.sampler = ItemSampler.of(1 / torch.arange(1.0, num_items + 1))  # popularity by Zipf's law
        self.index, self.order = ops.TokenIndex.build(self.codes_IM, 256), "random"

    def batch(self) -> Batch:
        return Batch(self.sampler.draw(512).view(16, 32))


@pytest.mark.parametrize("how", ["adamw", "rows"])
@pytest.mark.parametrize("num_items", [10_000, *long(1_000_000, 10_000_000)])
def bench_step(timed: Timed, num_items: int, how: str) -> None:
    """A step of pre-training `small` on 512 targets, by catalog size."""
    if num_items > 5_000_000 and how == "adamw":
        pytest.skip("AdamW needs more than 25 GB for this table")
    stage = RandomStage(num_items, how == "rows")
    optimizer = loop.make_optimizer(stage.module, stage.config.loop)

    def step() -> float:
        return float(train_on(stage.batch(), stage, optimizer))

    loss = timed(step, f"step/{num_items:,} items/cpu", how, 0, 0, "cpu")
    assert 0 < loss < 50
