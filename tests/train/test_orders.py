"""The order in which a target's tokens are fed: fixed, random, or the model's own."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from torch import Tensor

from reg4rec.model import HistoryLayout, ModelConfig, Reg4RecModel
from reg4rec.train.orders import draw_order

M, K = 3, 4


@pytest.fixture(params=["pooled", "flat"])
def model(request: pytest.FixtureRequest) -> Reg4RecModel:
    layout: HistoryLayout = request.param
    torch.manual_seed(5)
    config = ModelConfig(M, K, 3, dim=16, num_heads=2, ffn_dim=16, num_blocks=1, dropout=0.5, history_layout=layout)
    model = Reg4RecModel(config).double()
    with torch.no_grad():
        model.tokens_MKD.mul_(3.0)
        for block in (*model.encoder, *model.decoder):
            for parameter in block.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def codes_BLM() -> Tensor:
    return torch.randint(0, K, (6, 4, M), generator=torch.Generator().manual_seed(2))


def test_fixed_is_the_order_of_the_codebooks(model: Reg4RecModel, codes_BLM: Tensor) -> None:
    assert (draw_order("fixed", model, codes_BLM) == torch.arange(M)).all()


def test_random_orders_are_permutations_all_equally_often(model: Reg4RecModel) -> None:
    torch.manual_seed(0)
    order_BLM = draw_order("random", model, torch.zeros(60, 50, M, dtype=torch.int64))
    assert order_BLM.shape == (60, 50, M)
    counts = Counter(map(tuple, order_BLM.flatten(0, 1).tolist()))
    assert counts.keys() == set(permutations(range(M)))
    assert max(abs(n - 500) for n in counts.values()) < 5 * 500**0.5


@torch.no_grad()
def test_crss_feeds_the_codebook_with_the_most_probable_token(model: Reg4RecModel, codes_BLM: Tensor) -> None:
    model.train()
    order_BLM = draw_order("crss", model, codes_BLM)
    assert model.training
    model.eval()
    for b in range(len(codes_BLM)):
        for item in range(codes_BLM.shape[1]):
            memory = model.remember(codes_BLM[b : b + 1, :item], torch.tensor([item]))
            state, cache = model.decode_step(memory, None, 0, None)
            unused, expected = set(range(M)), []
            for step in range(1, M + 1):
                logits_MK = model.token_logits(state[0, 0])
                best = {r: float(logits_MK[r].softmax(0).max()) for r in unused}
                chosen = max(best, key=lambda r: best[r])
                expected.append(chosen)
                unused.remove(chosen)
                token = torch.tensor([[chosen * K + int(codes_BLM[b, item, chosen])]])
                state, cache = model.decode_step(memory, token, step, cache)
            assert order_BLM[b, item].tolist() == expected
    assert len({tuple(order) for order in order_BLM.flatten(0, 1).tolist()}) > 1


def test_crss_leaves_no_gradient_and_no_random_number(model: Reg4RecModel, codes_BLM: Tensor) -> None:
    before = torch.get_rng_state()
    order_BLM = draw_order("crss", model.train(), codes_BLM)
    assert not order_BLM.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
