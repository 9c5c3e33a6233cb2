"""Tasks for tests with several processes: run in one, or by `torchrun tests/group.py FOLDER OUT NAME ...` in two.

NAME is a function of this file, which writes into a folder of its name.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from reg4rec import distributed, ops
from reg4rec.alignment import AlignConfig, align
from reg4rec.cli import main
from reg4rec.data import Dataset
from reg4rec.data.events import Kinds
from reg4rec.evaluation import evaluate
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel, transformer
from reg4rec.model.layers import Dropout
from reg4rec.precision.ladq import LadqConfig
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.storage import write_json
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer, stage
from reg4rec.train import PretrainConfig, pretrain
from reg4rec.train.pretrain import PretrainStage
from tests.artifacts import of_kinds

LOOP = LoopConfig(epochs=3, learning_rate=3e-3, log_every=1, checkpoint_seconds=0.0)
# the last batches have fewer than two windows, so one process has no row
PRETRAIN = PretrainConfig(
    size="tiny", max_history=4, batch_targets=999, validation_users=31, crss_fraction=0.34, dropout=0.0, loop=LOOP
)
ALIGN = AlignConfig(
    rollout="beam", batch_users=333, group_size=4, anchor_weight=0.0, validation_users=31,
    loop=replace(LOOP, epochs=1, learning_rate=1e-3, updates_per_batch=2, parallel="fsdp"),
)  # fmt: skip


@contextlib.contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Stopped(BaseException):
    """Stands for anything that ends a process from inside."""


def whole(folder: Path, out: Path, parallel: Any = "ddp", killed_at: int = -1, by_signal: bool = False) -> Reg4RecModel:
    """Pre-training without dropout in float64; the last process ends before step `killed_at`.

    In float32 the order of sums could decide near ties: which codebook comes first in the model's own order.
    """
    loss, steps = PretrainStage.loss, 0

    def loss_until_killed(self: PretrainStage, batch: Any) -> Any:
        nonlocal steps
        if steps == killed_at and distributed.rank() == distributed.world() - 1:
            if by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Stopped
        steps += 1
        return loss(self, batch)

    config = replace(PRETRAIN, loop=replace(LOOP, parallel=parallel))
    data, tokenizer = Dataset.load(folder / "data"), Tokenizer.from_pretrained(folder / "tokenizer")
    with (
        patch.object(transformer, "RESIDUAL_DROPOUT", 0.0),
        patch.object(PretrainStage, "loss", loss_until_killed),
        double(),
    ):
        return pretrain(data, tokenizer, config, Run(out, device="cpu", progress=False))


def weighed(folder: Path, out: Path) -> Reg4RecModel:
    """The same; a third of the interactions are purchases, the others views."""
    data, tokenizer = Dataset.load(folder / "data"), Tokenizer.from_pretrained(folder / "tokenizer")
    rows = (np.arange(len(data.sequences.items)) % 3 > 0).astype(np.uint8)
    data = of_kinds(data, Kinds({"buy": 1.0, "look": 0.25}, rows))
    tokenizer = replace(tokenizer, card=tokenizer.card | {"dataset": data.card["fingerprint"]})
    with patch.object(transformer, "RESIDUAL_DROPOUT", 0.0), double():
        return pretrain(data, tokenizer, PRETRAIN, Run(out, device="cpu", progress=False))


def sharded(folder: Path, out: Path) -> Reg4RecModel:
    return whole(folder, out, "fsdp")


def killed(folder: Path, out: Path) -> Reg4RecModel:
    return whole(folder, out, "fsdp", killed_at=9, by_signal=True)


def kept_fp8(folder: Path, out: Path) -> None:
    """FSDP2 writes new weights into the old memory: the fp8 copies that layers keep must follow."""
    fp8_linear = ops.fp8_linear

    def compared(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None, weight8: ops.Fp8Weight) -> Tensor:
        for kept, fresh in zip(weight8, ops.fp8_weight(weight_OD), strict=True):
            assert torch.equal(kept.float(), fresh.float())
        return fp8_linear(x_TD, weight_OD, bias_O, weight8=weight8)

    data, tokenizer = Dataset.load(folder / "data"), Tokenizer.from_pretrained(folder / "tokenizer")
    config = replace(
        PRETRAIN, precision="fp8", ladq=LadqConfig(sample_every=2), loop=replace(LOOP, epochs=1, parallel="fsdp")
    )
    with patch.object(ops, "fp8_linear", compared):
        pretrain(data, tokenizer, config, Run(out, device="cpu", progress=False))


def others(folder: Path, out: Path) -> None:
    """The tokenizer, alignment and evaluation."""
    data = Dataset.load(folder / "data")
    with patch.object(stage, "CHUNK", 20):
        fit_tokenizer(data, TokenizerConfig(**CONFIG), Run(out / "tokenizer", progress=False))
    recommender = Recommender.from_pretrained(folder / "recommender", "cpu")
    for module in recommender.model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0  # the order of the found paths is learned under dropout
    align(recommender, data, ALIGN, Run(out / "align", progress=False))
    reports = [evaluate(recommender, data, max_users=n) for n in (1, 101)]
    if distributed.is_first():
        write_json(out / "metrics.json", {"rows": [report.rows[0].as_dict() for report in reports]})


def printed(folder: Path, out: Path) -> None:
    """What a command prints in each process."""
    data = ["--model", str(folder / "recommender"), "--data", str(folder / "data")]
    out.mkdir(exist_ok=True)
    with (out / f"{distributed.rank()}.txt").open("w") as said, contextlib.redirect_stdout(said):
        main(["evaluate", *data, "--max-users", "60", "--out", str(out / "metrics.json")])


CONFIG: dict[str, Any] = {
    "kind": "mpq",
    "num_codebooks": 3, "codebook_size": 16, "codeword_dim": 8, "hidden_dim": 32, "epochs": 4, "autoencoder_epochs": 2,
    "batch_size": 64,
}  # fmt: skip

if __name__ == "__main__":
    for task in sys.argv[3:]:
        globals()[task](Path(sys.argv[1]), Path(sys.argv[2]) / task)
