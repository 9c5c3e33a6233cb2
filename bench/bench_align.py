"""The parts of an alignment step: rollouts, rewards, update; 64 users with 8 paths each, a model of size `small`.

The shop is synthetic and the weights are random: only times and memory mean something.
"""

from collections.abc import Callable

import pytest
import torch

from bench.conftest import Timed
from reg4rec.alignment import AlignConfig
from reg4rec.alignment.rollouts import evaluate_paths, roll_out
from reg4rec.alignment.stage import AlignStage
from reg4rec.data import ViewConfig, synthetic_shop
from reg4rec.model import Reg4RecModel, encoded_histories, sized
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer


@pytest.fixture(scope="module")
def stage(device: str) -> AlignStage:
    shop = synthetic_shop(num_users=512, num_items=4000, num_facets=4, num_values=8)
    views = ViewConfig(text_dim=32, collaborative_dim=0)
    tokens = TokenizerConfig(kind="product-k-means", num_codebooks=4, codebook_size=256, codeword_dim=8, views=views)
    tokenizer = fit_tokenizer(shop, tokens, Run(progress=False))
    torch.manual_seed(0)
    shape = sized("small", 4, 256, len(shop.items.category_names), renormalize=True, num_items=shop.num_items)
    recommender = Recommender(Reg4RecModel(shape), tokenizer, shop.items, device=device)
    return AlignStage(recommender, shop, AlignConfig(), 0)


@pytest.mark.parametrize("part", ["rollout", "reward", "update"])
def bench_align(timed: Timed, stage: AlignStage, part: str, device: str) -> None:
    torch.manual_seed(0)
    batch, config = stage.batches(0)[0], stage.config
    with torch.no_grad():
        memory = encoded_histories(stage.recommender.model, stage.recommender.codes_IM, batch.cut.histories)

    def rollout() -> torch.Tensor:
        paths = roll_out(
            stage.policy.eval(), memory, stage.recommender.index, config.group_size, stage.num_steps, config.temperature
        )
        return paths.tokens_BGM(4)

    @torch.no_grad()
    def reward() -> torch.Tensor:
        recorded = evaluate_paths(stage.policy.eval(), memory, batch.rollouts, config.temperature)
        return stage.rewards(batch.cut, batch.rollouts, recorded)

    def update() -> torch.Tensor:
        stage.policy.zero_grad()
        loss = stage.loss(batch)["loss"]
        loss.backward()
        return loss.detach()

    parts: dict[str, Callable[[], torch.Tensor]] = {"rollout": rollout, "reward": reward, "update": update}
    found = timed(parts[part], f"align/{part}/{device}", "default", 0, 0, device)
    assert found.isfinite().all()
    if part == "rollout":
        codes_IM = stage.anchor.codes_IM
        assert all((codes_IM == path).all(1).any() for path in found.flatten(0, 1)[:64])
