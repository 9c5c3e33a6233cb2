"""The order in which a target's tokens are fed: fixed, random, or the model's own."""

from collections import Counter
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from reg4rec.model import HistoryLayout, ModelConfig, Reg4RecModel, decode_step, remember
from reg4rec.train.orders import OrderPolicy, draw_order

M, K, I = 3, 4, 9  # noqa: E741


@pytest.fixture(params=list(product(["pooled", "flat"], [0, I])), ids=str)
def model(request: pytest.FixtureRequest) -> Reg4RecModel:
    layout: HistoryLayout = request.param[0]
    torch.manual_seed(5)
    shape = {"dim": 16, "num_heads": 2, "ffn_dim": 16, "num_blocks": 1, "num_items": request.param[1]}
    model = Reg4RecModel(ModelConfig(M, K, 3, dropout=0.5, history_layout=layout, **shape)).double()
    with torch.no_grad():
        model.tokens_MKD.mul_(3.0)
        for block in (*model.encoder, *model.decoder):
            for parameter in block.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        if model.scores_items:
            model.refine.weight.normal_(std=0.3)
    return model


@pytest.fixture
def windows() -> tuple[Tensor, Tensor]:
    """(codes_BLM, items_BL)"""
    draw = torch.Generator().manual_seed(2)
    return torch.randint(0, K, (6, 4, M), generator=draw), torch.randint(0, I, (6, 4), generator=draw)


def drawn(
    policy: OrderPolicy, model: Reg4RecModel, windows: tuple[Tensor, Tensor], columns: tuple[int, ...] = (0, 1, 2, 3)
) -> Tensor:
    """order_BTM of the targets in some columns."""
    codes_BLM, items_BL = windows
    memory = model.encode(codes_BLM[:, :-1], items_BL[:, :-1])
    return draw_order(policy, model, *memory, codes_BLM[:, columns], torch.tensor(columns))


def test_fixed_is_the_order_of_the_codebooks(model: Reg4RecModel, windows: tuple[Tensor, Tensor]) -> None:
    assert drawn("fixed", model, windows, (1, 3)).tolist() == [[list(range(M))] * 2] * 6


def test_random_orders_are_permutations_all_equally_often(model: Reg4RecModel) -> None:
    torch.manual_seed(0)
    zeros_BLM = torch.zeros(750, 4, M, dtype=torch.int64)
    order_BLM = drawn("random", model, (zeros_BLM, zeros_BLM[..., 0]))
    assert order_BLM.shape == (750, 4, M)
    counts = Counter(map(tuple, order_BLM.flatten(0, 1).tolist()))
    assert counts.keys() == set(permutations(range(M)))
    assert max(abs(n - 500) for n in counts.values()) < 5 * 500**0.5


@torch.no_grad()
@pytest.mark.parametrize("columns", [(0, 1, 2, 3), (0, 2)])
def test_crss_feeds_the_codebook_with_the_most_probable_token(
    model: Reg4RecModel, windows: tuple[Tensor, Tensor], columns: tuple[int, ...]
) -> None:
    codes_BLM, items_BL = windows
    # without dropout in the encoder, which the caller ran
    order_BTM = drawn("crss", model.eval(), windows, columns)
    for (b, history_LM), (t, item) in product(enumerate(codes_BLM), enumerate(columns)):
        memory = remember(model, history_LM[None, :item], torch.tensor([item]), items_BL[b : b + 1, :item])
        state, cache = decode_step(model, memory, None, 0, None)
        unused, expected = set(range(M)), []
        for step in range(1, M + 1):
            logits_MK = model.token_logits(state[0, 0])
            best = {r: float(logits_MK[r].softmax(0).max()) for r in unused}
            chosen = max(best, key=lambda r: best[r])
            expected.append(chosen)
            unused.remove(chosen)
            token = torch.tensor([[chosen * K + int(codes_BLM[b, item, chosen])]])
            state, cache = decode_step(model, memory, token, step, cache)
        assert order_BTM[b, t].tolist() == expected
    assert len({tuple(order) for order in order_BTM.flatten(0, 1).tolist()}) > 1


def test_crss_leaves_no_gradient_and_no_random_number(model: Reg4RecModel, windows: tuple[Tensor, Tensor]) -> None:
    codes_BLM, items_BL = windows
    memory = model.train().encode(codes_BLM[:, :-1], items_BL[:, :-1])
    before = torch.get_rng_state()
    order_BLM = draw_order("crss", model, *memory, codes_BLM, torch.arange(4))
    assert model.training
    assert not order_BLM.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
