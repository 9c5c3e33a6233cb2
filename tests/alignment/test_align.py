"""Alignment on the shop: rewards rise, nothing is worse than before, and a killed run comes back to the same bits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import reg4rec.alignment.stage as align_stage
from reg4rec.alignment import AlignConfig, RewardWeights, align
from reg4rec.alignment.rollouts import Rollouts
from reg4rec.alignment.stage import AlignStage
from reg4rec.data import synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig, Validation
from reg4rec.model import Reg4RecModel, encoded_histories, padded
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig, search, step_indexes
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

QUICK = AlignConfig(
    batch_users=250,
    group_size=4,
    validation_users=60,
    loop=LoopConfig(epochs=2, learning_rate=1e-3, updates_per_batch=2, log_every=1, checkpoint_seconds=0.0),
)

KILLS_ITSELF = """
import os, signal, sys
from reg4rec.data import Dataset
from reg4rec.recommend import Recommender
from reg4rec.loop import LoopConfig, Validation
from reg4rec.run import Run
from reg4rec.alignment import AlignConfig, align
from reg4rec.alignment.stage import AlignStage

folder, last = sys.argv[1], int(sys.argv[2])
losses, loss = 0, AlignStage.loss

def loss_until_killed(self, batch):
    global losses
    if losses == last:
        os.kill(os.getpid(), signal.SIGKILL)
    losses += 1
    return loss(self, batch)

AlignStage.loss = loss_until_killed
loop = LoopConfig(epochs=2, learning_rate=1e-3, updates_per_batch=2, log_every=1, checkpoint_seconds=0.0)
config = AlignConfig(batch_users=64, group_size=4, validation_users=60, loop=loop)
recommender = Recommender.from_pretrained(folder + "/start", "cpu")
align(recommender, Dataset.load(folder + "/data"), config, Run(folder + "/run", progress=False))
"""


# runs of a few steps show symptoms; these are tested in test_symptoms.py
pytestmark = pytest.mark.filterwarnings("ignore:reg4rec align")


@pytest.fixture
def start(shop: SyntheticShop, tokenizer: Tokenizer, token_model: Reg4RecModel) -> Recommender:
    """A recommender that knows the shop only a little."""
    return Recommender(token_model, tokenizer, shop.items, device="cpu").with_search(prune_threshold=None)


@pytest.fixture(scope="module")
def few() -> SyntheticShop:
    """The first users of the shop, for whole alignments."""
    return synthetic_shop(num_users=250, num_items=60, num_facets=3, seed=0)


@pytest.fixture
def start_of_few(few: SyntheticShop, start: Recommender) -> Recommender:
    tokenizer = replace(start.tokenizer, card={"dataset": few.card["fingerprint"]})
    start.live = replace(start.live, tokenizer=tokenizer)
    return start


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


@pytest.mark.slow
def test_the_reward_rises_without_help_of_the_anchor(
    few: SyntheticShop, start_of_few: Recommender, tmp_path: Path
) -> None:
    start = start_of_few
    weights = {name: weight.clone() for name, weight in start.model.state_dict().items()}
    rewards = RewardWeights(category_hit=0, step_consistency=0)
    config = replace(QUICK, batch_users=25, group_size=8, anchor_weight=0.0, kl_weight=0.0, rewards=rewards)
    loop = replace(QUICK.loop, epochs=4, learning_rate=2e-3)
    aligned = align(start, few, replace(config, loop=loop), Run(tmp_path, progress=False))
    epochs = [row for row in rows_of(tmp_path) if "epoch" in row]
    assert epochs[-1]["reward_step_hit"] > 1.05 * epochs[0]["reward_step_hit"]
    assert all(torch.equal(weights[name], weight) for name, weight in start.model.state_dict().items())
    again = Recommender.from_pretrained(tmp_path / "recommender", "cpu")
    assert again.recommend([[]], k=5, to="polars").equals(aligned.recommend([[]], k=5, to="polars"))


def test_an_alignment_that_does_not_help_gives_back_what_came_in(
    few: SyntheticShop, start_of_few: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = [np.arange(100) < count for count in (50, 52, 48)]  # 2 of 100 users more are 1.4 standard errors
    figures = iter(
        [Validation({f"validation_recall@{k}": row.mean() for k in (5, 10, 50)}, row.astype(float)) for row in hits]
    )
    monkeypatch.setattr(align_stage, "validate", lambda *_: next(figures))
    assert align(start_of_few, few, QUICK, Run(tmp_path, progress=False)) is start_of_few
    assert not json.loads((tmp_path / "align.json").read_text())["kept"]


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(
    few: SyntheticShop, start_of_few: Recommender, tmp_path: Path
) -> None:
    start, config = start_of_few, replace(QUICK, batch_users=64)
    few.save(tmp_path / "data")
    start.save_pretrained(tmp_path / "start")
    whole = align(start, few, config, Run(tmp_path / "whole", progress=False))
    child = [sys.executable, "-c", KILLS_ITSELF, str(tmp_path), "11"]
    done = subprocess.run(child, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == -signal.SIGKILL
    checkpoint = max((tmp_path / "run" / "checkpoints").glob("step-*/checkpoint.json"))
    assert json.loads(checkpoint.read_text())["step_in_epoch"] > 0

    resumed = align(start, few, config, Run(tmp_path / "run", progress=False))
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_the_first_update_of_a_batch_is_on_policy(shop: SyntheticShop, start: Recommender) -> None:
    stage = AlignStage(start, shop, replace(QUICK, anchor_weight=0.0, kl_weight=0.5), 0)
    batch = stage.batches(0)[0]
    values = stage.loss(batch)
    assert values["clip_fraction"] == 0
    assert values["kl_live"] == 0
    assert abs(values["objective"].item()) < 1e-6  # advantages sum to zero within a group
    theirs, ours = start.model.tokens_MKD, stage.policy.tokens_MKD
    gradients = torch.autograd.grad(values["loss"], [ours, theirs], allow_unused=True)
    assert gradients[0].any()
    assert gradients[1] is None


def test_the_order_of_paths_is_rewarded_by_the_scores_of_the_search(shop: SyntheticShop, start: Recommender) -> None:
    assert not start.model.scores_items
    stage = AlignStage(start, shop, QUICK, 0)
    batch = stage.batches(0)[0]
    values = stage.loss(batch)
    memory = encoded_histories(start.model, start.codes_IM, batch.cut.histories)
    config = SearchConfig(50, prune_threshold=None)
    paths = search(start.model, memory, step_indexes(start.index, "confidence"), config)
    rewards = []
    for user, probability_W in enumerate(paths.scores_BW.double().softmax(1)):
        future_F = torch.from_numpy(batch.cut.futures[user]).long()
        weight_F = 0.8 ** torch.arange(len(future_F)).double()
        hit_WF = (paths.tokens_BWM[user][:, None] == start.codes_IM[future_F]).all(-1)
        earned = (probability_W[:, None] * hit_WF * weight_F / weight_F.sum()).sum()
        rewards.append(earned.log() if earned > 0 else earned)
    found = [reward != 0 for reward in rewards]
    assert 0 < sum(found) < len(found)
    assert float(values["found_futures"]) == pytest.approx(sum(found) / len(found))
    with torch.no_grad():
        stage.policy.eval()
        reward_B = stage._order_reward(batch, memory)
    torch.testing.assert_close(reward_B.double(), torch.stack(rewards), atol=1e-4, rtol=1e-4)


def test_a_batch_without_found_items_learns_without_the_order_reward(shop: SyntheticShop, start: Recommender) -> None:
    stage = AlignStage(start, shop, QUICK, 0)
    batch = stage.batches(0)[0]
    assert isinstance(batch.found, Rollouts)
    nothing = batch.found._replace(valid_BG=torch.zeros_like(batch.found.valid_BG))
    values = stage.loss(batch._replace(found=nothing))
    assert values["reward_order"] == 0
    assert values["found_futures"] == 0
    (gradient,) = torch.autograd.grad(values["loss"], stage.policy.tokens_MKD)
    assert gradient.isfinite().all()


def test_a_model_without_categories_is_rewarded_for_its_tokens(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    config = PretrainConfig(
        size="tiny", score_items=False, category_weight=0, validation_users=10, loop=LoopConfig(epochs=1)
    )
    model = pretrain(shop, tokenizer, config, Run(device="cpu", progress=False))
    start = Recommender(model, tokenizer, shop.items, device="cpu")
    stage = AlignStage(start, shop, QUICK, 0)
    assert stage.share_X.tolist() == [0.5, 0, 0, 0.5]
    assert stage.loss(stage.batches(0)[0])["loss"].isfinite()


def test_the_anchor_keeps_the_pretraining_settings_of_the_model(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = PretrainConfig(
        size="tiny", score_items=False, category_weight=0.2, decoded_fraction=1.0, targets="next", max_history=9,
        batch_targets=256, validation_users=10, loop=LoopConfig(epochs=1),
    )  # fmt: skip
    model = pretrain(shop, tokenizer, config, Run(device="cpu", progress=False))
    Recommender(model, tokenizer, shop.items, device="cpu").save_pretrained(tmp_path)
    start = Recommender.from_pretrained(tmp_path, "cpu")
    found = AlignStage(start, shop, QUICK, 0).anchor.config
    same = ("max_history", "score_items", "renormalize", *config.loss_settings)
    assert [getattr(found, name) for name in same] == [getattr(config, name) for name in same]
    start.model.trained_by = {"category_weight": "heavy"}
    with pytest.raises(InputError, match="train it again"):
        AlignStage(start, shop, QUICK, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_size": 1}, "group_size is 1; it must be 2 or more"),
        ({"decay": 0.0}, "decay is 0.0; it must be above 0"),
        ({"rollout": "greedy"}, "rollout is 'greedy'; it must be one of"),
        ({"window": 0}, "window is 0; it must be 1 or more"),
        ({"step_hit": 0, "category_hit": 0, "global_path": 0}, "step_consistency cannot be the only reward"),
        ({"step_hit": -1.0}, "reward weights must be 0 or more"),
    ],
)
def test_bad_settings_are_named(shop: SyntheticShop, start: Recommender, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        align(start, shop, QUICK, **changes)


def test_another_dataset_is_refused(shop: SyntheticShop, start: Recommender) -> None:
    more = start.with_search()
    more.add_items(pa.table({"item_id": ["one more"], "title": ["of no kind"]}))
    with pytest.raises(InputError, match="items are not those of synthetic-shop"):
        align(more, shop, QUICK)


def test_data_that_cannot_align_is_refused_before_training(shop: SyntheticShop, start: Recommender) -> None:
    final = start.with_search()
    final.trained_on = "train+validation"
    with pytest.raises(InputError, match=r"trained on train\+validation, so validation cannot choose"):
        align(final, shop, QUICK)
    short = replace(shop, sequences=shop.sequences.last(3))
    with pytest.raises(InputError, match="no user of synthetic-shop has two training items"):
        align(start, short, QUICK)


def test_found_paths_are_those_of_the_search(shop: SyntheticShop, start: Recommender) -> None:
    """With more steps than there are codebooks, too."""
    stage = AlignStage(start.with_search(num_steps=9), shop, QUICK, 0)
    histories = shop.part("train").take(torch.arange(40).numpy())
    found = stage.found(histories, encoded_histories(stage.recommender.model, stage.recommender.codes_IM, histories))
    assert isinstance(found, Rollouts)
    assert found.order_BGS.shape[2] == stage.num_steps == 3
    (searched,) = start.search(histories, 50, filter_seen=False)
    num_paths = found.order_BGS.shape[1]
    assert torch.equal(found.order_BGS[:, 0], searched.paths.order_BWM[:, 0])
    assert torch.equal(found.tokens_BGM(3)[:, 0], searched.paths.tokens_BWM[:, 0])
    assert num_paths == 50


def test_found_items_are_the_best_by_the_present_weights(shop: SyntheticShop, exact: Recommender) -> None:
    stage = AlignStage(exact, shop, QUICK, 0)
    batch = stage.batches(0)[0]
    values = stage.loss(batch)
    assert 0 < values["found_futures"] <= 1
    assert torch.autograd.grad(values["loss"], stage.policy.residual_ID)[0].any()

    histories = shop.part("train").take(torch.arange(40).numpy())
    history_BX, everything = padded(histories, -1), torch.arange(shop.num_items)
    stage.policy.eval()
    for _ in range(2):
        with torch.no_grad():
            memory = encoded_histories(stage.recommender.model, stage.recommender.codes_IM, histories)
            found = stage.found(histories, memory)
            pairs = everything.new_tensor(range(40)).repeat_interleave(shop.num_items), everything.repeat(40)
            scores_BI = stage.policy.score_items(
                memory.state_BD, history_BX, pairs[0], stage.recommender.codes_IM[pairs[1]], pairs[1]
            ).view(40, -1)
            assert isinstance(found, torch.Tensor)
            torch.testing.assert_close(scores_BI.gather(1, found), scores_BI.topk(50).values)
            stage.policy.residual_ID.neg_()


def test_residuals_of_a_large_catalog_are_aligned_row_by_row(
    shop: SyntheticShop, exact: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = align_stage.anchor_config
    monkeypatch.setattr(align_stage, "anchor_config", lambda model: replace(usual(model), rows_from=1))
    assert AlignStage(exact, shop, QUICK, 0).policy.row_tables == ("residual_ID",)
    aligned = align(exact, shop, QUICK, Run(progress=False), epochs=1, accepted_loss=1.0)
    assert aligned.model.row_tables == exact.model.row_tables == ()
    assert not torch.equal(aligned.model.residual_ID, exact.model.residual_ID)


def test_a_search_in_fixed_order_is_refused(shop: SyntheticShop, start: Recommender) -> None:
    with pytest.raises(InputError, match="order 'confidence', found 'fixed'"):
        align(start.with_search(order="fixed"), shop, QUICK)
