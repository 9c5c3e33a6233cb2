"""Pre-training on the shop: it learns what can be known, and a killed run comes back to the same bits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reg4rec.data import Dataset, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel
from reg4rec.recipes import RECIPES
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain
from reg4rec.train.pretrain import PretrainStage
from reg4rec.train.windows import Batch

QUICK = PretrainConfig(
    size="tiny",
    max_history=4,
    batch_targets=1024,
    validation_users=30,
    crss_fraction=0.34,
    loop=LoopConfig(epochs=3, learning_rate=3e-3, log_every=1, checkpoint_seconds=0.0),
)

KILLS_ITSELF = """
import os, signal, sys
from reg4rec.data import Dataset
from reg4rec.loop import LoopConfig
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain
from reg4rec.train.pretrain import PretrainStage
import json

folder, settings, last_step = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
steps, loss = 0, PretrainStage.loss

def loss_until_killed(self, batch):
    global steps
    if steps == last_step:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1
    return loss(self, batch)

PretrainStage.loss = loss_until_killed
config = PretrainConfig(**{**settings, "loop": LoopConfig(**settings["loop"])})
data, tokenizer = Dataset.load(folder + "/data"), Tokenizer.from_pretrained(folder + "/tokenizer")
pretrain(data, tokenizer, config, Run(folder + "/run", device="cpu", progress=False))
"""


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "epoch_seconds"} for row in rows]


def train(shop: SyntheticShop, tokenizer: Tokenizer, config: PretrainConfig, out: Path | None = None) -> Reg4RecModel:
    return pretrain(shop, tokenizer, config, Run(out, device="cpu", progress=False))


def same_bits(a: Reg4RecModel, b: Reg4RecModel) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_shop_is_learned(shop: SyntheticShop, recommender: Recommender) -> None:
    report = evaluate([Popularity.fit(shop), recommender, shop.oracle], shop, ks=(5, 10))
    popular, learned, attainable = ({m: row.metrics[m] for m in row.metrics} for row in report.rows)
    for metric in ("recall@5", "recall@10", "ndcg@10"):
        assert learned[metric] > 2.5 * popular[metric]
        assert learned[metric] < attainable[metric] + 0.02
    assert learned["recall@10"] > 0.6 * attainable["recall@10"]
    assert learned["recall@5"] > 0.45 * attainable["recall@5"]


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = train(shop, tokenizer, QUICK, tmp_path / "whole")
    steps_of_epoch = next(int(row["step"]) for row in rows_of(tmp_path / "whole") if "epoch" in row)
    shop.save(tmp_path / "data")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    child = [sys.executable, "-c", KILLS_ITSELF, str(tmp_path), json.dumps(asdict(QUICK)), str(steps_of_epoch + 3)]
    done = subprocess.run(child, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == -signal.SIGKILL
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("step-*/checkpoint.json"))
    assert json.loads(checkpoint.read_text())["step_in_epoch"] == 3

    resumed = train(shop, tokenizer, QUICK, tmp_path / "run")
    assert same_bits(resumed, whole)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_the_seed_decides_the_model(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    config = replace(QUICK, loop=LoopConfig(epochs=1), validation_users=5)
    models = []
    for seed, ambient in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(ambient)
        models.append(pretrain(shop, tokenizer, config, Run(seed=seed, device="cpu", progress=False)))
    assert same_bits(models[0], models[1])
    assert not same_bits(models[0], models[2])


def test_the_last_epochs_feed_tokens_in_the_models_own_order(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    def orders(config: PretrainConfig) -> list[str]:
        stage = PretrainStage(shop, tokenizer, config, 0, torch.device("cpu"))
        return [(stage.batches(epoch), stage.order)[1] for epoch in range(config.loop.epochs)]

    assert orders(replace(QUICK, loop=LoopConfig(epochs=10), crss_fraction=0.2)) == ["random"] * 8 + ["crss"] * 2
    assert orders(replace(QUICK, crss_fraction=0.0)) == ["random"] * 3
    assert orders(replace(QUICK, order="fixed")) == ["fixed"] * 3
    assert orders(replace(QUICK, order="crss")) == ["crss"] * 3


def test_a_final_fit_sees_the_validation_items_and_keeps_the_last_epoch(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = replace(QUICK, part="train+validation", loop=LoopConfig(epochs=1, log_every=1))
    train(shop, tokenizer, config, tmp_path)
    assert not any(name.startswith("validation") for row in rows_of(tmp_path) for name in row)

    for settings in (QUICK, config):
        stage = PretrainStage(shop, tokenizer, settings, 0, torch.device("cpu"))
        targets = sum(int((batch.items_BL >= 0).sum()) for batch in stage.batches(0))
        assert targets == len(shop.part(settings.part).items)


def stage_of(data: Dataset, tokenizer: Tokenizer, **settings: Any) -> PretrainStage:
    torch.manual_seed(0)
    return PretrainStage(data, tokenizer, replace(QUICK, **settings), 0, torch.device("cpu"))


def test_the_loss_weighs_items_tokens_and_categories(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    for score_items, category_weight in ((True, 0.7), (True, 0.0), (False, 0.7)):
        settings = {"score_items": score_items, "category_weight": category_weight, "token_weight": 0.2}
        stage = stage_of(shop, tokenizer, **settings)
        losses = stage.loss(stage.batches(0)[0])
        path_loss = losses["token_loss"]
        if category_weight:
            path_loss = path_loss + 0.7 * losses["category_loss"]
        assert ("item_loss" in losses, "category_loss" in losses) == (score_items, category_weight > 0)
        expected = losses["item_loss"] + 0.2 * path_loss if score_items else path_loss
        torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("layout", ["pooled", "flat"])
def test_padding_of_a_batch_changes_no_loss(
    shop: SyntheticShop, tokenizer: Tokenizer, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_item = torch.arange(shop.num_items), torch.ones(shop.num_items)
    monkeypatch.setattr(sys.modules[PretrainStage.__module__], "draw_negatives", lambda *_: every_item)
    stage = stage_of(shop, tokenizer, order="fixed", decoded_fraction=1.0, history_layout=layout)
    stage.module.eval()
    torch.nn.init.normal_(stage.module.refine.weight, std=0.1)
    torch.nn.init.normal_(stage.module.residual_ID)
    items_BL = torch.tensor([[5, 8, 8, 2], [9, 5, -1, -1]])
    narrow = stage.loss(Batch(items_BL))
    wide = stage.loss(Batch(torch.nn.functional.pad(items_BL, (0, 2), value=-1)))
    for name, value in narrow.items():
        torch.testing.assert_close(value, wide[name])


def test_each_batch_decodes_a_new_random_part_of_the_targets(
    shop: SyntheticShop, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns: list[list[int]] = []
    decode_on = Reg4RecModel.decode_on

    def counted(self: Reg4RecModel, *inputs: torch.Tensor) -> torch.Tensor:
        columns.append(inputs[-1].tolist())
        return decode_on(self, *inputs)

    monkeypatch.setattr(Reg4RecModel, "decode_on", counted)
    for fraction, count in ((0.01, 1), (0.4, 2), (1.0, 5)):
        columns.clear()
        stage = stage_of(shop, tokenizer, decoded_fraction=fraction)
        for _ in range(20):
            stage.loss(Batch(torch.tensor([[4, 9, 1, 7, 3]])))
        assert {len(drawn) for drawn in columns} == {count}
        assert all(drawn == sorted(set(drawn)) for drawn in columns)
        assert {column for drawn in columns for column in drawn} == set(range(5))


def test_items_without_an_interaction_keep_a_residual_of_zero(tokenizer: Tokenizer) -> None:
    few = synthetic_shop(num_users=6, num_items=60, num_facets=3, seed=0)
    tokens = replace(tokenizer, card={"dataset": few.card["fingerprint"]})
    model = pretrain(few, tokens, QUICK, Run(device="cpu", progress=False))
    seen_I = torch.from_numpy(few.item_counts("train") > 0)
    assert 0 < seen_I.sum() < 60
    assert torch.equal(model.residual_ID.abs().amax(1) > 0, seen_I)
    assert model.repeat_bias < 0  # nothing is bought twice in the shop


def test_a_tokenizer_of_another_dataset_is_refused(tokenizer: Tokenizer) -> None:
    for other in (
        synthetic_shop(num_users=20, num_items=70),
        synthetic_shop(num_users=20, num_items=60, num_facets=3, seed=8),
    ):
        with pytest.raises(InputError, match="fitted on another dataset"):
            train(other, tokenizer, QUICK)


def test_tokens_that_know_the_validation_items_are_for_a_final_fit(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    final = replace(tokenizer, card={**tokenizer.card, "part": "train+validation"})
    with pytest.raises(InputError, match=r"the tokenizer was fitted on train\+validation"):
        train(shop, final, QUICK)


def test_without_a_fraction_no_epoch_is_in_the_models_own_order(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    """An alignment may take more epochs from its anchor than pre-training has."""
    stage = PretrainStage(shop, tokenizer, replace(QUICK, crss_fraction=0.0), 0, torch.device("cpu"))
    stage.batches(100)
    assert stage.order == "random"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dropout": 1.0}, "dropout is 1.0; it must be from 0 to below 1"),
        ({"crss_fraction": 1.5}, "crss_fraction is 1.5"),
        ({"category_weight": -1.0}, "category_weight is -1.0"),
        ({"batch_targets": 0}, "batch_targets is 0"),
        ({"validation_users": 0}, "validation_users is 0"),
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"token_weight": 0.0}, "token_weight is 0.0"),
        ({"decoded_fraction": 0.0}, "decoded_fraction is 0.0"),
        ({"decoded_fraction": 1.1}, "decoded_fraction is 1.1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"order": "backwards"}, "order is 'backwards'"),
        ({"targets": "all"}, "targets is 'all'"),
        ({"part": "all"}, "part is 'all'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PretrainConfig(**wrong)  # type: ignore[arg-type]


def test_sizes_out_of_range_are_refused(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    for wrong in ({"max_history": 0}, {"dropout": 2.0}, {"size": "huge"}, {"history_layout": "round"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            train(shop, tokenizer, replace(QUICK, **wrong))


def test_tokens_of_another_recipe_are_refused(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="tokens are of the recipe 'default', these settings of 'paper'"):
        pretrain(shop, tokenizer, RECIPES["paper"].pretrain)


def test_arguments_that_belong_to_run_are_named(shop: SyntheticShop, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"no setting out \(out, seed, device, resume and progress belong to run="):
        pretrain(shop, tokenizer, out="runs/mine")
