"""The pre-training loss against a plain loop in float64."""

import copy
import math

import pytest
import torch
from torch import Tensor

from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.train.losses import pretraining_loss

M, K, C = 3, 5, 4


def make_model(num_categories: int = C) -> Reg4RecModel:
    torch.manual_seed(4)
    return Reg4RecModel(ModelConfig(M, K, num_categories, dim=16, num_heads=2, ffn_dim=16, num_blocks=1)).eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(codes_BLM, order_BLM, filled_BL, category_BL) of windows of lengths 5, 2, 1."""
    draw = torch.Generator().manual_seed(9)
    codes_BLM = torch.randint(0, K, (3, 5, M), generator=draw)
    order_BLM = torch.rand(3, 5, M, generator=draw).argsort(-1)
    filled_BL = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    category_BL = torch.randint(0, C, (3, 5), generator=draw)
    category_BL[0, 3] = category_BL[1, 0] = -1
    return codes_BLM, order_BLM, filled_BL, category_BL


def cross_entropy(logits: list[float], target: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[target]


@torch.no_grad()
def slow_losses(
    model: Reg4RecModel, codes_BLM: Tensor, order_BLM: Tensor, filled_BL: Tensor, category_BL: Tensor
) -> dict[str, float]:
    model = copy.deepcopy(model).double()
    token_losses, category_losses, hits = [], [], []
    for b, item in filled_BL.nonzero().tolist():
        memory = model.remember(codes_BLM[b : b + 1, :item], torch.tensor([item]))
        state, cache = model.decode_step(memory, None, 0, None)
        order, codes = order_BLM[b, item].tolist(), codes_BLM[b, item].tolist()
        for step in range(M):
            logits_MK = model.token_logits(state[0, 0]).tolist()
            open_codebooks = order[step:]
            terms = [cross_entropy(logits_MK[r], codes[r]) for r in open_codebooks]
            token_losses.append(sum(terms) / len(terms))
            fed = torch.tensor([[order[step] * K + codes[order[step]]]])
            state, cache = model.decode_step(memory, fed, step + 1, cache)
            if category_BL[b, item] >= 0:
                logits_C = model.category_logits(state[0, 0]).tolist()  # type: ignore[union-attr]
                category_losses.append(cross_entropy(logits_C, int(category_BL[b, item])))
                hits.append(logits_C.index(max(logits_C)) == int(category_BL[b, item]))
    return {
        "token_loss": sum(token_losses) / len(token_losses),
        "category_loss": sum(category_losses) / len(category_losses),
        "category_accuracy": sum(hits) / len(hits),
    }


def test_losses_equal_a_plain_loop(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    model = make_model()
    losses = pretraining_loss(model, *batch)
    expected = slow_losses(model, *batch)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(value, abs=2e-6), name


def test_padding_is_not_looked_at(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    codes_BLM, order_BLM, filled_BL, category_BL = batch
    model = make_model()
    before = pretraining_loss(model, *batch)
    codes_BLM, category_BL = codes_BLM.clone(), category_BL.clone()
    codes_BLM[~filled_BL] = 0
    category_BL[~filled_BL] = 3
    order_BLM = torch.where(filled_BL[..., None], order_BLM, order_BLM.flip(-1))
    after = pretraining_loss(model, codes_BLM, order_BLM, filled_BL, category_BL)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_any_category_the_category_loss_is_zero(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    model = make_model()
    losses = pretraining_loss(model, *batch[:3], torch.full((3, 5), -1))
    assert losses["category_loss"].item() == losses["category_accuracy"].item() == 0.0
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_model_without_categories_has_the_token_loss_only(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    assert pretraining_loss(make_model(0), *batch).keys() == {"token_loss"}


def test_every_weight_that_is_used_gets_a_gradient(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    model = make_model()
    losses = pretraining_loss(model, *batch)
    (losses["token_loss"] + losses["category_loss"]).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert idle <= {"separator"}  # the pooled layout has none
