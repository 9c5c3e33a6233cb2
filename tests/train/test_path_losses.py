"""The token and category losses against a plain loop in float64."""

import copy
import math
from collections.abc import Iterable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.model import ModelConfig, Reg4RecModel, decode_step, remember
from reg4rec.train.losses import StepTargets, path_losses

M, K, C, I = 3, 5, 4, 8  # noqa: E741


class Batch(NamedTuple):
    """Windows of lengths 5, 2, 1."""

    codes_BLM: Tensor
    order_BLM: Tensor
    items_BL: Tensor
    filled_BL: Tensor
    category_BL: Tensor


def make_model(num_categories: int = C, num_items: int = I) -> Reg4RecModel:
    torch.manual_seed(4)
    shape = {"dim": 16, "num_heads": 2, "ffn_dim": 16, "num_blocks": 1, "num_items": num_items}
    model = Reg4RecModel(ModelConfig(M, K, num_categories, **shape)).eval()  # type: ignore[arg-type]
    if num_items:
        torch.nn.init.normal_(model.refine.weight, std=0.3)
    return model


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(9)
    codes_BLM = torch.randint(0, K, (3, 5, M), generator=draw)
    order_BLM = torch.rand(3, 5, M, generator=draw).argsort(-1)
    filled_BL = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    category_BL = torch.randint(0, C, (3, 5), generator=draw)
    category_BL[0, 3] = category_BL[1, 0] = -1
    return Batch(codes_BLM, order_BLM, torch.randint(0, I, (3, 5), generator=draw), filled_BL, category_BL)


def losses_of(
    model: Reg4RecModel, batch: Batch, targets: StepTargets = "open", renormalize: bool = False
) -> dict[str, Tensor]:
    codes_BLM, order_BLM, items_BL, filled_BL, category_BL = batch
    memory_BJD, number_J = model.encode(codes_BLM[:, :-1], items_BL[:, :-1])
    column_L = torch.arange(codes_BLM.shape[1])
    states_XSD = model.decode_on(memory_BJD, number_J, codes_BLM, order_BLM, column_L)[filled_BL]
    of_targets = (codes_BLM[filled_BL], order_BLM[filled_BL], category_BL[filled_BL])
    index = ops.TokenIndex.build(codes_BLM.flatten(0, 1), K) if renormalize else None
    return path_losses(model, states_XSD, *of_targets, targets, index)


def cross_entropy(logits: list[float], target: int, among: Iterable[int]) -> float:
    return math.log(sum(math.exp(logits[j]) for j in among)) - logits[target]


@torch.no_grad()
def slow_losses(model: Reg4RecModel, batch: Batch, targets: StepTargets, renormalize: bool) -> dict[str, float]:
    model = copy.deepcopy(model).double()
    codes_BLM, order_BLM, items_BL, filled_BL, category_BL = batch
    catalog = codes_BLM.flatten(0, 1).tolist()
    token_losses, category_losses, hits = [], [], []
    for b, item in filled_BL.nonzero().tolist():
        memory = remember(model, codes_BLM[b : b + 1, :item], torch.tensor([item]), items_BL[b : b + 1, :item])
        state, cache = decode_step(model, memory, None, 0, None)
        order, codes = order_BLM[b, item].tolist(), codes_BLM[b, item].tolist()
        for step in range(M):
            logits_MK = model.token_logits(state[0, 0]).tolist()
            predicted = order[step:] if targets == "open" else order[step : step + 1]
            reached = [item for item in catalog if all(item[r] == codes[r] for r in order[:step])]
            for r in predicted:
                among = {item[r] for item in reached} if renormalize else range(K)
                token_losses.append(cross_entropy(logits_MK[r], codes[r], among))
            fed = torch.tensor([[order[step] * K + codes[order[step]]]])
            state, cache = decode_step(model, memory, fed, step + 1, cache)
            if category_BL[b, item] >= 0:
                logits_C = model.category_logits(state[0, 0]).tolist()  # type: ignore[union-attr]
                category_losses.append(cross_entropy(logits_C, int(category_BL[b, item]), range(C)))
                hits.append(logits_C.index(max(logits_C)) == int(category_BL[b, item]))
    return {
        "token_loss": sum(token_losses) / len(token_losses),
        "category_loss": sum(category_losses) / len(category_losses),
        "category_accuracy": sum(hits) / len(hits),
    }


@pytest.mark.parametrize("num_items", [0, I])
@pytest.mark.parametrize("targets", ["open", "next"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_losses_equal_a_plain_loop(batch: Batch, targets: StepTargets, num_items: int, renormalize: bool) -> None:
    model = make_model(num_items=num_items)
    losses = losses_of(model, batch, targets, renormalize)
    expected = slow_losses(model, batch, targets, renormalize)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(value, abs=2e-6), name


def test_without_any_category_the_category_loss_is_zero(batch: Batch) -> None:
    model = make_model()
    losses = losses_of(model, batch._replace(category_BL=torch.full((3, 5), -1)))
    assert losses["category_loss"].item() == losses["category_accuracy"].item() == 0.0
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_model_without_categories_has_the_token_loss_only(batch: Batch) -> None:
    assert losses_of(make_model(0), batch).keys() == {"token_loss"}


def test_every_weight_that_is_used_gets_a_gradient(batch: Batch) -> None:
    model = make_model()
    losses = losses_of(model, batch)
    (losses["token_loss"] + losses["category_loss"]).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert idle == {"separator", "repeat"}  # the pooled layout has no separator, paths know of no repeats
