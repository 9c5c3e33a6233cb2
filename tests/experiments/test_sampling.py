"""The study of LADQ's sampling period: a replay equals the real controller, and rarer samples react later."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.experiments import Finding, SamplingConfig, sampling
from reg4rec.experiments.sampling import replayed_classes, replayed_rows, true_classes
from reg4rec.loop import LoopConfig
from reg4rec.precision.ladq import LadqConfig, LayerSample, read_ladq
from reg4rec.run import Run
from reg4rec.storage import read_json, write_json
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

TRAINING = PretrainConfig(
    size="tiny", max_history=8, batch_targets=512, validation_users=20, loop=LoopConfig(epochs=3, learning_rate=3e-3)
)
CONFIG = SamplingConfig(every=1, periods=(1, 4, 8), pretrain=TRAINING)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of measured costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REG4REC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["REG4REC_CACHE"]) / "format-costs.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sampling")


@pytest.fixture(scope="module")
def findings(shop: SyntheticShop, tokenizer: Tokenizer, folder: Path) -> Finding[Any]:
    return sampling(shop, tokenizer, CONFIG, out=folder, device="cpu")


def run_of(out: Path) -> Path:
    (run,) = out.glob("fits/sampled-*")
    return run


def test_a_replayed_controller_is_the_one_that_trains(
    findings: Finding[Any], shop: SyntheticShop, tokenizer: Tokenizer, folder: Path, cache: Path, tmp_path: Path
) -> None:
    """fp32 is the fastest format here, so both runs see the same weights."""
    costs = {m: {size: {"fp32": 1.0, "bf16": 2.0} for size in sizes} for m, sizes in read_json(cache).items()}
    write_json(cache, costs)
    training = replace(TRAINING, precision="ladq", ladq=LadqConfig(sample_every=4))
    pretrain(shop, tokenizer, training, Run(tmp_path, device="cpu", progress=False))
    replayed = replayed_classes(4, read_ladq(run_of(folder)).history, training.ladq)
    assert replayed[2] == {}
    assert replayed[-1] == read_ladq(tmp_path).classes


def test_the_run_is_in_fp32_where_bf16_is_faster_too(
    findings: Finding[Any], shop: SyntheticShop, tokenizer: Tokenizer, cache: Path, tmp_path: Path
) -> None:
    costs = {m: {size: {"fp32": 5.0, "bf16": 1.0} for size in sizes} for m, sizes in read_json(cache).items()}
    write_json(cache, costs)
    sampling(shop, tokenizer, CONFIG, out=tmp_path, device="cpu")
    history = read_ladq(run_of(tmp_path)).history
    assert {layer.format for _, layers in history for layer in layers.values()} == {"fp32"}


def test_the_findings(findings: Finding[Any], folder: Path) -> None:
    assert [row.period for row in findings.rows] == [1, 4, 8]
    assert [row.first_step for row in findings.rows] == [0, 3, 7]
    assert all(0 <= row.too_coarse <= row.wrong < 0.5 for row in findings.rows)
    assert (folder / "sampling.md").read_text() == findings.markdown()
    assert (folder / "sampling.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(folder / "sampling.json")["rows"][0]["period"] == 1


def test_a_planted_change_is_caught_late_by_rare_samples() -> None:
    def sample(trace: float) -> LayerSample:
        return LayerSample(trace, 0.0, trace, "fp32")

    steps = [(s, {f"l{i}": sample(10.0 - i if i or s < 100 else 0.1) for i in range(10)}) for s in range(400)]
    ladq = LadqConfig(decay=0.0, hysteresis=0.0)
    config = SamplingConfig(every=1, periods=(1, 50), ladq=ladq)
    truth = true_classes(steps, ladq)
    assert truth[0]["l0"] == "fp32"
    assert truth[-1]["l0"] == "fp8"
    often, rarely = replayed_rows(steps, config)
    assert often.caught == rarely.caught == 1.0
    assert often.lag is not None
    assert rarely.lag is not None
    assert often.lag < 10 < rarely.lag <= 50
    assert often.wrong < rarely.wrong


def test_too_short_a_run_is_refused(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="samples, a study needs 20"):
        sampling(shop, tokenizer, CONFIG, out=tmp_path, device="cpu", every=4, periods=(4,))
    with pytest.raises(InputError, match="leave 4000 out of periods"):
        sampling(shop, tokenizer, CONFIG, out=tmp_path / "long", device="cpu", periods=(4000,))
