"""The item-level loss against a plain loop in float64: exact for the history, sampled for the rest."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.train.item_loss import ItemSampler, draw_negatives, item_loss

M, K, I, D = 2, 4, 12, 8  # noqa: E741
SEEN = [3, 5, 3, 3, 7, 5, 1], [9, 9, 2], [4]
"""Windows with items that repeat, once and twice, at once and later."""


class Case(NamedTuple):
    model: Reg4RecModel
    states_BLD: Tensor
    items_BL: Tensor
    codes_IM: Tensor

    def loss(self, negatives_X: Tensor, expected_X: Tensor) -> Tensor:
        return loss_of(self, self.states_BLD, self.items_BL, negatives_X, expected_X)


def loss_of(case: Case, states_BLD: Tensor, items_BL: Tensor, negatives_X: Tensor, expected_X: Tensor) -> Tensor:
    def embed(rows_T: Tensor) -> Tensor:
        return case.model.embed_items(case.codes_IM[rows_T], rows_T)

    return item_loss(embed, case.model.repeat_bias, states_BLD, items_BL, negatives_X, expected_X)


@pytest.fixture(params=[-1.5, 0.0, 2.0])
def case(request: pytest.FixtureRequest) -> Case:
    """Random vectors and states, and a repeat bias."""
    torch.manual_seed(0)
    config = ModelConfig(M, K, 0, dim=D, num_heads=2, ffn_dim=8, num_blocks=1, num_items=I)
    model = Reg4RecModel(config).double().eval()
    with torch.no_grad():
        model.residual_ID.normal_()
        model.repeat.fill_(request.param / 10)
    assert model.repeat_bias.item() == pytest.approx(request.param)
    items_BL = torch.full((len(SEEN), 7), -1)
    for b, items in enumerate(SEEN):
        items_BL[b, : len(items)] = torch.tensor(items)
    states_BLD = torch.randn(len(SEEN), 7, D).double().requires_grad_()
    return Case(model, states_BLD, items_BL, torch.randint(0, K, (I, M)))


@torch.no_grad()
def slow_loss(case: Case, negatives: list[int], expected: list[float]) -> float:
    vectors_ID = case.model.embed_items(case.codes_IM, torch.arange(I))
    losses = []
    for b, items in enumerate(SEEN):
        for place, target in enumerate(items):
            score = (vectors_ID @ case.states_BLD[b, place]).tolist()
            history = set(items[:place])
            for i in history:
                score[i] += float(case.model.repeat_bias)
            total = sum(math.exp(score[i]) for i in history | {target})
            for i, count in zip(negatives, expected, strict=True):
                total += 0 if i in history | {target} else math.exp(score[i]) / count
            losses.append(math.log(total) - score[target])
    return sum(losses) / len(losses)


def test_a_sample_counts_what_the_history_does_not_hold(case: Case) -> None:
    negatives_X, expected_X = draw_negatives(ItemSampler.of(torch.arange(1.0, I + 1)), 30)
    assert len(negatives_X.unique()) < len(negatives_X)  # some twice
    found = float(case.loss(negatives_X, expected_X).detach())
    assert found == pytest.approx(slow_loss(case, negatives_X.tolist(), expected_X.tolist()), abs=1e-6)


def test_the_rarest_item_of_a_large_catalog_can_be_drawn() -> None:
    weights_I = torch.ones(100_000)
    weights_I[0] = 1e9  # in float32 the cumulative sum would not grow after it
    sampler = ItemSampler.of(weights_I)
    assert bool((sampler.cumulative_I.diff() > 0).all())
    assert float(sampler.cumulative_I[-1]) == 1


@torch.no_grad()
def test_with_the_whole_catalog_it_is_the_exact_softmax(case: Case) -> None:
    vectors_ID = case.model.embed_items(case.codes_IM, torch.arange(I))
    logits, targets = [], []
    for b, items in enumerate(SEEN):
        for place, target in enumerate(items):
            history_I = torch.zeros(I).double().index_fill_(0, torch.tensor(items[:place], dtype=torch.long), 1.0)
            logits.append(vectors_ID @ case.states_BLD[b, place] + case.model.repeat_bias * history_I)
            targets.append(target)
    expected = F.cross_entropy(torch.stack(logits), torch.tensor(targets))
    torch.testing.assert_close(case.loss(torch.randperm(I), torch.ones(I).double()), expected)


def test_items_neither_met_nor_drawn_get_a_gradient_of_exactly_zero(case: Case) -> None:
    negatives_X = torch.tensor([6, 6, 10])
    case.loss(negatives_X, torch.ones(3).double()).backward()
    met = {i for items in SEEN for i in items} | set(negatives_X.tolist())
    assert case.model.residual_ID.grad is not None
    for i, gradient in enumerate(case.model.residual_ID.grad):  # item 0 is also the padding
        assert bool(gradient.abs().max() > 0) == (i in met), i


def test_padding_is_not_looked_at(case: Case) -> None:
    negatives_X, expected_X = draw_negatives(ItemSampler.of(torch.ones(I)), 6)
    case.loss(negatives_X, expected_X).backward()
    gradient_BLD = case.states_BLD.grad
    assert gradient_BLD is not None
    assert torch.equal(gradient_BLD.abs().amax(-1) > 0, case.items_BL >= 0)


def test_the_repeat_bias_falls_where_items_are_new_and_rises_where_they_come_again(case: Case) -> None:
    new_BL = torch.tensor([[3, 5, 7, 1]])
    all_X, ones_X = torch.arange(I), torch.ones(I).double()
    gradients: list[Tensor] = []
    for items_BL in (new_BL, torch.full_like(new_BL, 3)):
        loss = loss_of(case, case.states_BLD[:1, :4], items_BL, all_X, ones_X)
        gradients += torch.autograd.grad(loss, case.model.repeat)
    assert gradients[0] > 0 > gradients[1]
