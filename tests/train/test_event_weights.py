"""Weights of kinds of events: they scale a target's loss, in all losses, and choose the targets of validation."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.baselines import sasrec as module_of_sasrec
from reg4rec.data import Dataset, Sequences
from reg4rec.data.events import Kinds
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain
from reg4rec.train.pretrain import PretrainStage
from reg4rec.train.validation import validate
from reg4rec.train.windows import Batch, WindowBatches, target_weights
from tests.artifacts import of_kinds

LOOP = LoopConfig(epochs=2, learning_rate=3e-3, log_every=1, checkpoint_seconds=0.0)
QUICK = PretrainConfig(
    size="tiny", max_history=4, batch_targets=1024, validation_users=30, decoded_fraction=1.0, dropout=0.0, loop=LOOP
)
SASREC = SASRecConfig(dim=8, ffn_dim=8, max_history=4, batch_targets=1024, dropout=0.0, validation_users=30, loop=LOOP)
ITEMS_BL = torch.tensor([[5, 8, 8, 2], [9, 5, 7, -1], [3, -1, -1, -1]])
WEIGHT_BL = torch.tensor([[1.5, 0.25, 0.0, 2.0], [0.5, 1.0, 3.0, 0.0], [0.75, 0.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def weighed(shop: SyntheticShop) -> Dataset:
    """The shop, where every third interaction is bought and the others are looked at."""
    rows = (np.arange(len(shop.sequences.items)) % 3 > 0).astype(np.uint8)
    return of_kinds(shop, Kinds({"buy": 1.0, "look": 0.25}, rows))


def all_of(data: Dataset, weight: float, zero: float | None = None) -> Dataset:
    """All interactions of one kind, or two kinds in turn."""
    weights = {"one": weight} | ({} if zero is None else {"two": zero})
    rows = np.zeros(len(data.sequences.items), dtype=np.uint8)
    return of_kinds(data, Kinds(weights, rows))


def tokens_of(tokenizer: Tokenizer, data: Dataset) -> Tokenizer:
    return replace(tokenizer, card=tokenizer.card | {"dataset": data.card["fingerprint"]})


def stage_of(data: Dataset, tokenizer: Tokenizer, **settings: Any) -> PretrainStage:
    torch.manual_seed(0)
    stage = PretrainStage(data, tokens_of(tokenizer, data), replace(QUICK, **settings), 0, torch.device("cpu"))
    with torch.no_grad():
        for parameter in (stage.module.refine.weight, stage.module.residual_ID):
            parameter.normal_(std=0.3)
    return stage


@pytest.mark.parametrize("name", ["train", "train+validation", "all"])
def test_weights_are_those_of_the_parts_items_and_one_on_average(weighed: Dataset, name: Any) -> None:
    weights = target_weights(weighed, name)
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights.mean(dtype=np.float64) == pytest.approx(1)
    part, first = weighed.part(name), 0
    for user in range(len(part)):
        begin, length = weighed.sequences.offsets[user], part.lengths[user]
        raw = np.where(np.arange(begin, begin + length) % 3 > 0, 0.25, 1.0)
        np.testing.assert_allclose(weights[first : first + length] / weights.max(), raw, rtol=1e-6)
        first += length


def test_no_weights_without_kinds_and_none_that_are_all_zero(shop: SyntheticShop) -> None:
    assert target_weights(shop, "train") is None
    last = np.zeros(len(shop.sequences.items), dtype=np.uint8) + 1
    last[shop.sequences.offsets[1:] - 1] = 0
    late = of_kinds(shop, Kinds({"buy": 1.0, "look": 0.0}, last))
    assert target_weights(late, "all") is not None
    with pytest.raises(InputError, match="no interaction of train has a weight above 0"):
        target_weights(late, "train")


def test_windows_carry_the_weights_of_their_items() -> None:
    lengths = [0, 4, 17, 1, 23]
    rows = np.arange(sum(lengths), dtype=np.int32)
    sequences = Sequences(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows)
    weights = (rows + 1).astype(np.float32)
    plain, carrying = (WindowBatches(sequences, 5, 30, 0, 1, w) for w in (None, weights))
    for batch, same in zip(carrying, plain, strict=True):
        assert torch.equal(batch.items_BL, same.items_BL)
        assert same.weight_BL is None
        assert batch.weight_BL is not None
        assert batch.weight_BL.dtype == torch.float32
        assert torch.equal(batch.weight_BL, (batch.items_BL + 1).float())  # 0 where padding is -1


def losses_by_target(stage: PretrainStage, name: str) -> Tensor:
    """The loss (B, L) of each target alone: all others have weight 0; the mean over all targets is undone."""
    filled_BL = ITEMS_BL >= 0
    losses_BL = torch.zeros(ITEMS_BL.shape, dtype=torch.float64)
    for b, place in filled_BL.nonzero().tolist():
        alone_BL = torch.zeros_like(WEIGHT_BL)
        alone_BL[b, place] = 1
        losses_BL[b, place] = stage.loss(Batch(ITEMS_BL, alone_BL))[name].double() * filled_BL.sum()
    return losses_BL


@pytest.mark.parametrize("name", ["item_loss", "token_loss", "category_loss"])
def test_the_losses_are_sums_of_weight_times_loss_over_the_targets(
    shop: SyntheticShop, tokenizer: Tokenizer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_item = torch.arange(shop.num_items), torch.ones(shop.num_items)
    monkeypatch.setattr(sys.modules[PretrainStage.__module__], "draw_negatives", lambda *_: every_item)
    stage = stage_of(shop, tokenizer, order="fixed")
    with torch.no_grad():
        of_targets = losses_by_target(stage, name)
        plain = stage.loss(Batch(ITEMS_BL))[name].double()
        found = stage.loss(Batch(ITEMS_BL, WEIGHT_BL))[name].double()
    count = int((ITEMS_BL >= 0).sum())
    assert len(of_targets.unique()) == count + 1
    torch.testing.assert_close(of_targets.sum() / count, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((of_targets * WEIGHT_BL).sum() / count, found, rtol=1e-5, atol=1e-6)


def slow_sasrec_loss(stage: Any, weight_BL: Tensor) -> float:
    """In float64, one target at a time, over the whole catalog."""
    network = stage.module.double().eval()
    losses = []
    for b, place in (ITEMS_BL >= 0).nonzero().tolist():
        state_D = network(ITEMS_BL[b : b + 1, :place])[0, -1]
        log_probs_I = (network.items_ID @ state_D).log_softmax(-1)
        losses.append(-float(log_probs_I[ITEMS_BL[b, place]]) * float(weight_BL[b, place]))
    network.float()
    return sum(losses) / len(losses)


@torch.no_grad()
def test_sasrec_has_the_same_weights(weighed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    every_item = torch.arange(weighed.num_items), torch.ones(weighed.num_items)
    monkeypatch.setattr(module_of_sasrec, "draw_negatives", lambda *_: every_item)
    model = SASRec(module_of_sasrec._build(weighed.num_items, SASREC), weighed.items, SASREC, "cpu")
    stage = module_of_sasrec._Stage(model, weighed, 0)
    for weight_BL in (WEIGHT_BL, None):
        expected = slow_sasrec_loss(stage, torch.ones_like(WEIGHT_BL) if weight_BL is None else weight_BL)
        assert float(stage.loss(Batch(ITEMS_BL, weight_BL))["loss"]) == pytest.approx(expected, abs=1e-5)
    own, weights = stage.batches(0)[0], target_weights(weighed, "train")
    assert own.weight_BL is not None
    assert weights is not None
    assert np.unique(own.weight_BL[own.items_BL >= 0]).tolist() == np.unique(weights).tolist()


def gradients(stage: PretrainStage, items_BL: Tensor, weight_BL: Tensor) -> list[Tensor]:
    stage.module.zero_grad()
    torch.manual_seed(7)
    stage.loss(Batch(items_BL, weight_BL))["loss"].backward()
    return [torch.zeros(()) if p.grad is None else p.grad.clone() for p in stage.module.parameters()]


def test_a_target_of_weight_0_teaches_nothing(
    shop: SyntheticShop, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    negatives = torch.tensor([40, 41, 42]), torch.ones(3)
    monkeypatch.setattr(sys.modules[PretrainStage.__module__], "draw_negatives", lambda *_: negatives)
    stage = stage_of(shop, tokenizer, order="fixed")
    weight_BL = torch.tensor([[1.0, 0.5, 2.0, 0.0]])
    last = [gradients(stage, torch.tensor([[5, 8, 8, item]]), weight_BL) for item in (2, 30)]
    assert all(torch.equal(a, b) for a, b in zip(*last, strict=True))  # the last item is in no history
    context = [gradients(stage, torch.tensor([[5, item, 8, 2]]), weight_BL.roll(2, 1)) for item in (8, 30)]
    assert not all(torch.equal(a, b) for a, b in zip(*context, strict=True))  # history counts, whatever its weight


def test_one_weight_for_all_is_training_without_weights(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    models = []
    for data in (shop, all_of(shop, 1.0), all_of(shop, 0.3, 0.1)):
        run = Run(seed=0, device="cpu", progress=False)
        models.append(pretrain(data, tokens_of(tokenizer, data), QUICK, run).state_dict())
    for other in models[1:]:
        assert all(torch.equal(other[name], weight) for name, weight in models[0].items())


class Killed(BaseException):
    """Stands for anything that ends a run from outside."""


@pytest.mark.parametrize("method", ["pretrain", "sasrec"])
def test_a_weighted_run_that_was_killed_goes_on_to_the_same_bits(
    weighed: Dataset, tokenizer: Tokenizer, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(out: Path) -> dict[str, Tensor]:
        run = Run(out, device="cpu", progress=False)
        if method == "sasrec":
            return SASRec.fit(weighed, SASREC, run).network.state_dict()
        return pretrain(weighed, tokens_of(tokenizer, weighed), QUICK, run).state_dict()

    whole = fit(tmp_path / "whole")
    stage: Any = PretrainStage if method == "pretrain" else module_of_sasrec._Stage
    loss, left = stage.loss, [7]

    def loss_until_killed(self: Any, batch: Batch) -> dict[str, Tensor]:
        if not left[0]:
            raise Killed
        left[0] -= 1
        assert batch.weight_BL is not None
        return loss(self, batch)

    monkeypatch.setattr(stage, "loss", loss_until_killed)
    with pytest.raises(Killed):
        fit(tmp_path / "killed")
    monkeypatch.undo()
    resumed = fit(tmp_path / "killed")
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_validation_asks_those_whose_target_weighs_most(weighed: Dataset, shop: SyntheticShop) -> None:
    popular = Popularity.fit(weighed)
    users, _ = weighed.targets("validation")
    bought = (weighed.sequences.offsets[1:][users] - 2) % 3 == 0
    everyone = evaluate(popular, weighed, "validation", ks=(10,))
    asked = evaluate(popular, weighed, "validation", ks=(10,), heaviest=True)
    assert asked.card["targets"] == bought.sum() < len(users)
    assert asked.rows[0].ranks_B.tolist() == everyone.rows[0].ranks_B[bought].tolist()
    assert [everyone.card["groups"][f"of kind {kind}"] for kind in ("buy", "look")] == [bought.sum(), (~bought).sum()]
    assert everyone.rows[0].groups["of kind buy"] == asked.rows[0].metrics
    found = validate(popular, weighed, "validation_ndcg@10", "standard", None, 0)
    assert found.metrics["validation_recall@10"] == asked.rows[0].metrics["recall@10"]

    first = np.ones(len(shop.sequences.items), dtype=np.uint8)
    first[shop.sequences.offsets[:-1]] = 0
    for weights in ({"buy": 1.0, "look": 0.5}, {"buy": 1.0, "look": 0.0}):  # no target was bought: all are alike
        early = evaluate(popular, of_kinds(shop, Kinds(weights, first)), "validation", ks=(10,), heaviest=True)
        assert early.card["targets"] == len(users)


def test_kinds_move_with_the_ties_that_are_shuffled(shop: SyntheticShop) -> None:
    times = np.concatenate([np.arange(length) // 3 for length in shop.sequences.lengths])
    kinds = Kinds({"buy": 1.0, "look": 0.2}, (shop.sequences.items % 2).astype(np.uint8))
    data = Dataset.build("timed", shop.user_ids, shop.sequences, shop.items, times=times, kinds=kinds)
    shuffled = data.with_shuffled_ties(1)
    assert shuffled.kinds is not None
    assert shuffled.sequences.items.tolist() != data.sequences.items.tolist()
    assert shuffled.kinds.rows.tolist() == (shuffled.sequences.items % 2).tolist()
    split = shuffled.with_time_split(1, 2, "timestamp")
    assert split.kinds is not None
    assert split.target_kinds("test").tolist() == (split.targets("test")[1] % 2).tolist()  # type: ignore[union-attr]
