"""Pre-training on the shop: it learns what can be known, and a killed run comes back to the same bits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from reg4rec.baselines import Popularity
from reg4rec.data import synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.infer import Recommender
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain
from reg4rec.train.pretrain import PretrainStage

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
pretrain(data, tokenizer, config, folder + "/run", device="cpu", progress=False)
"""


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "epoch_seconds"} for row in rows]


def train(shop: SyntheticShop, tokenizer: Tokenizer, config: PretrainConfig, out: Path | None = None) -> Reg4RecModel:
    return pretrain(shop, tokenizer, config, out, device="cpu", progress=False)


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


def test_a_process_that_was_killed_goes_on_to_the_same_bits(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
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
        models.append(pretrain(shop, tokenizer, config, seed=seed, device="cpu", progress=False))
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


def test_a_tokenizer_of_another_dataset_is_refused(tokenizer: Tokenizer) -> None:
    for other in (
        synthetic_shop(num_users=20, num_items=70),
        synthetic_shop(num_users=20, num_items=60, num_facets=3, seed=8),
    ):
        with pytest.raises(InputError, match="fitted on another dataset"):
            train(other, tokenizer, QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crss_fraction": 1.5}, "crss_fraction is 1.5"),
        ({"category_weight": -1.0}, "category_weight is -1.0"),
        ({"batch_targets": 0}, "batch_targets is 0"),
        ({"validation_users": 0}, "validation_users is 0"),
        ({"order": "backwards"}, "order is 'backwards'"),
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
