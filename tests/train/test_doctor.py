"""The doctor on runs that fail on purpose, and on healthy ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from reg4rec.alignment import AlignConfig, align
from reg4rec.cli import main
from reg4rec.data import Dataset, Sequences, ViewConfig, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel
from reg4rec.precision.ladq import LadqConfig
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.settings import override
from reg4rec.storage import write_json
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.tokenizer.stage import TokenizerStage
from reg4rec.train import PretrainConfig, fit_recommender, pretrain
from reg4rec.train.doctor import diagnose

TOKENS = TokenizerConfig(
    orthogonality="decorrelation",
    num_codebooks=3,
    codebook_size=16,
    codeword_dim=8,
    hidden_dim=32,
    epochs=8,
    autoencoder_epochs=2,
    batch_size=64,
    views=ViewConfig(text_dim=24, collaborative_dim=8),
)
TRAINING = PretrainConfig(
    size="tiny", max_history=8, validation_users=200, loop=LoopConfig(epochs=6, learning_rate=4e-3)
)


@pytest.fixture(scope="module")
def large_shop() -> SyntheticShop:
    """A shop with enough items that they share tokens."""
    return synthetic_shop(num_users=300, num_items=400, num_facets=4, seed=0)


def fit(shop: SyntheticShop, out: Path, **changes: Any) -> None:
    fit_tokenizer(shop, TOKENS, Run(out, progress=False), **changes)


def assert_found(run: Path, sign: str, remedy: str) -> None:
    findings = [finding for finding in diagnose(run).findings if sign in finding]
    assert len(findings) == 1
    assert remedy in findings[0]


def test_healthy_runs_are_called_healthy(
    large_shop: SyntheticShop,
    model: Reg4RecModel,
    model_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in ("mpq", "product-k-means"):
        fit(large_shop, tmp_path / kind, kind=kind)
        diagnosis = diagnose(tmp_path / kind)
        assert (diagnosis.stage, diagnosis.state, diagnosis.findings) == ("tokenizer", "finished", [])
    assert diagnose(model_run).findings == []
    main(["doctor", str(model_run)])
    assert capsys.readouterr().out.splitlines() == ["pretrain, finished", "healthy: none of the known failures"]


@pytest.mark.parametrize(
    ("changes", "sign", "remedy"),
    [
        ({"codebook_size": 2, "num_codebooks": 2, "separate_collisions": False}, "share all tokens", "codebook_size"),
        ({"codebook_size": 128}, "too many for", "codebook_size=32"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_ill_tokens(large_shop: SyntheticShop, changes: dict[str, Any], sign: str, remedy: str, tmp_path: Path) -> None:
    fit(large_shop, tmp_path, floors=replace(TOKENS.floors, max_collision_rate=1.0), **changes)
    assert_found(tmp_path, sign, remedy)


@pytest.mark.filterwarnings("ignore")
def test_a_gate_that_is_drawn_to_one_expert(
    large_shop: SyntheticShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy_loss = TokenizerStage.loss

    def loss(self: TokenizerStage, batch: Any) -> dict[str, Tensor]:
        values = healthy_loss(self, batch)
        share = self.quantizer.gate(self.vectors_IV[batch[0]])[:, 0].mean()
        return {**values, "loss": values["loss"] - 300 * share}

    monkeypatch.setattr(TokenizerStage, "loss", loss)
    floors = replace(TOKENS.floors, max_gate_share=1.0, max_relative_error=100.0, min_rebuilt_spread=0.0)
    fit(large_shop, tmp_path, epochs=30, floors=floors)
    assert_found(tmp_path, "the gate gives expert 0", "learning_rate")


@pytest.mark.parametrize(
    ("changes", "sign"),
    [({"learning_rate": 3.0}, "collapsed"), ({"codebook_size": 2, "num_codebooks": 1}, "collapsed")],
)
def test_tokens_that_collapse(
    large_shop: SyntheticShop, changes: dict[str, Any], sign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((TokenizerCollapseError, FloatingPointError)) as raised:
        fit(large_shop, tmp_path, **changes)
    found = diagnose(tmp_path)
    assert (found.stage, found.state) == ("tokenizer", "failed")
    assert found.findings[0] == f"the run stopped itself: {raised.value}"
    assert sign in found.findings[0]
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path), "--json"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["findings"] == found.findings


@pytest.mark.parametrize(
    ("learning_rate", "epochs", "signs"),
    [
        (1e-7, 3, {"nothing was learned": "learning_rate", "category after a token": "category_weight"}),
        (4e-3, 2, {"still rose": "more epochs"}),
    ],
)
def test_ill_pretraining(
    shop: SyntheticShop, tokenizer: Tokenizer, learning_rate: float, epochs: int, signs: dict[str, str], tmp_path: Path
) -> None:
    training = replace(TRAINING, loop=LoopConfig(epochs=epochs, learning_rate=learning_rate))
    pretrain(shop, tokenizer, training, Run(tmp_path, device="cpu", progress=False))
    for sign, remedy in signs.items():
        assert_found(tmp_path, sign, remedy)


def without_order(shop: SyntheticShop) -> Dataset:
    """Users who buy at random, sometimes a popular item and at the end only popular ones: this is learned soon, and
    after that the model can only memorize what each of them bought."""
    rng, lists = np.random.default_rng(0), []
    for _ in range(60):
        popular, others = rng.permutation(6).tolist(), rng.permutation(np.arange(6, shop.num_items)).tolist()
        bought = [(popular if len(popular) > 2 and rng.random() < 0.35 else others).pop() for _ in range(8)]
        lists.append([*bought, *popular[:2]])
    return Dataset.build("no order", pa.array(range(60)), Sequences.from_lists(lists), shop.items)


def test_a_model_that_learns_by_heart(shop: SyntheticShop, tmp_path: Path) -> None:
    data = without_order(shop)
    training = replace(TRAINING, dropout=0.0, loop=LoopConfig(epochs=20, learning_rate=1e-2))
    tokens = fit_tokenizer(data, TOKENS, Run(progress=False))
    pretrain(data, tokens, training, Run(tmp_path, device="cpu", progress=False))
    assert_found(tmp_path, "overfits", "dropout")


def test_a_loss_that_is_no_number(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wild = replace(TRAINING, loop=LoopConfig(epochs=2, learning_rate=1e30, warmup_fraction=0.0, log_every=1))
    with pytest.raises(FloatingPointError):
        pretrain(shop, tokenizer, wild, Run(tmp_path, device="cpu", progress=False))
    assert "lower learning_rate" in diagnose(tmp_path).findings[0]
    short = replace(TRAINING, loop=LoopConfig(epochs=1))
    pretrain(shop, tokenizer, short, Run(tmp_path, device="cpu", resume=False, progress=False))
    assert diagnose(tmp_path).state == "finished"


def findings_of(data: Dataset, tokens: Tokenizer, out: Path, **changes: Any) -> str:
    """The doctor's findings about a short pre-training with these settings."""
    training = override(TRAINING, {"epochs": 3, "log_every": 5, "batch_targets": 128, **changes})
    pretrain(data, tokens, training, Run(out, device="cpu", progress=False))
    return "\n".join(diagnose(out).findings)


def test_a_dead_run_under_ladq_is_not_sent_to_train_on(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REG4REC_CACHE", str(tmp_path / "cache"))
    changes: dict[str, Any] = {"precision": "ladq", "ladq": LadqConfig(sample_every=5), "learning_rate": 0.3}
    found = findings_of(shop, tokenizer, tmp_path / "run", score_items=False, token_weight=1.0, **changes)
    assert "that of popularity" in found
    assert "lower learning_rate (now 0.3)" in found
    assert "same for everybody" in found
    assert "more epochs" not in found.replace("or train for more epochs", "")


def test_a_loss_that_slowly_diverges(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After sixty steps the optimizer begins to climb, slowly."""
    step, taken = torch.optim.AdamW.step, 0

    def turned(self: torch.optim.AdamW, *rest: Any) -> Any:
        nonlocal taken
        taken += 1
        for group in self.param_groups if taken > 60 else ():
            group["lr"] *= -0.5
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", turned)
    found = findings_of(shop, tokenizer, tmp_path / "run", epochs=1, batch_targets=64)
    assert "training diverges; lower learning_rate (now 0.004)" in found


def test_lists_that_are_the_same_for_everybody(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path) -> None:
    recommender = fit_recommender(
        shop,
        tokenizer,
        replace(TRAINING, score_items=False, loop=LoopConfig(epochs=1, learning_rate=1e-6)),
        Run(tmp_path, device="cpu", progress=False),
    )
    lists = recommender.rank(shop.part("train").take(np.arange(200)), 10, False)
    assert len(np.unique(lists)) <= 20
    assert_found(tmp_path, "collapse to the same for everybody", "learning_rate (now 1e-06)")


@pytest.fixture(scope="module")
def start(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A recommender without item scores, from a healthy run, that knows the shop."""
    out = tmp_path_factory.mktemp("start")
    loop = LoopConfig(epochs=10, learning_rate=6e-3)
    training = replace(TRAINING, score_items=False, max_history=20, decoded_fraction=1.0, loop=loop)
    model = pretrain(shop, tokenizer, training, Run(out, device="cpu", progress=False))
    assert diagnose(out).findings == []
    return Recommender(model, tokenizer, shop.items, shop.item_counts("train"), device="cpu")


FREE = {"order_weight": 0.0, "kl_weight": 0.0, "anchor_weight": 0.0}
"""Nothing keeps the policy near its start."""
CONSISTENT = {"step_consistency": 10.0, "step_hit": 0.01, "category_hit": 0.0, "global_path": 0.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:reg4rec align")
@pytest.mark.parametrize(
    ("changes", "signs"),
    [
        ({"learning_rate": 1e-3, "kl_weight": 0.1}, {}),
        (
            {"learning_rate": 0.02, **FREE},
            {
                "paths collapse": "raise kl_weight (now 0)",
                "left the pre-trained model": "lower learning_rate (now 0.02)",
                "Recall@10 on validation fell": "do not raise quality",
            },
        ),
        ({"learning_rate": 5e-3, **FREE, **CONSISTENT}, {"one category": "step_consistency (now 10)"}),
        ({"learning_rate": 1e-9}, {"a plateau": "raise learning_rate (now 1e-09)"}),
        ({"learning_rate": 1e-4, "temperature": 0.02, **FREE}, {"teach nothing": "group_size"}),
    ],
)
def test_alignments_of_one_epoch(
    shop: SyntheticShop, start: Recommender, changes: dict[str, Any], signs: dict[str, str], tmp_path: Path
) -> None:
    align(start, shop, AlignConfig(batch_users=125, group_size=4, validation_users=300),
          Run(tmp_path, progress=False), epochs=1, **changes)  # fmt: skip
    for sign, remedy in signs.items():
        assert_found(tmp_path, sign, remedy)
    findings = diagnose(tmp_path).findings
    assert signs or findings == []
    assert not any("group_size" in finding for finding in findings) or "teach nothing" in signs


def test_spikes_under_ladq(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REG4REC_CACHE", str(tmp_path / "cache"))
    ladq = LadqConfig(sample_every=5, spike=1.0001)  # any loss above the mean counts
    loop = replace(TRAINING.loop, epochs=2)
    training = replace(TRAINING, batch_targets=128, precision="ladq", ladq=ladq, loop=loop)
    pretrain(shop, tokenizer, training, Run(tmp_path / "run", device="cpu", progress=False))
    assert_found(tmp_path / "run", "the loss spiked", "learning_rate")


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        diagnose(tmp_path)
    write_json(tmp_path / "config.json", {"stage": "sasrec", "seed": 0})
    with pytest.raises(
        InputError, match="is a run of sasrec; the doctor only knows runs of tokenizer, pretrain, align"
    ):
        diagnose(tmp_path)


def test_damaged_metrics_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "config.json", {"stage": "pretrain", "seed": 0})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n')
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", str(tmp_path)])
    assert capsys.readouterr().err == (
        f"reg4rec: {tmp_path / 'metrics.jsonl'} line 2 is damaged: not a JSON object with a step; remove that line\n"
    )
