"""What fp8 did to a layer's values: counted correctly, at sampled steps only, and logged by runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reg4rec.cli import main
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.model import Linear
from reg4rec.precision.fp8_counts import Fp8Counts, Fp8Watch, fp8_metrics
from reg4rec.precision.ladq import LadqConfig, fp8_report, linear_layers, precision_report
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

RUN = PretrainConfig(
    size="tiny",
    max_history=8,
    batch_targets=1024,
    validation_users=30,
    precision="fp8",
    ladq=LadqConfig(sample_every=2),
    loop=LoopConfig(epochs=2, learning_rate=3e-3, log_every=1, checkpoint_seconds=0.0),
)


@pytest.fixture
def layer() -> Linear:
    layer = Linear(16, 16, bias=False)
    layer.format = "fp8"
    with torch.no_grad():
        layer.weight.copy_(torch.eye(16))
        layer.weight[0, 1] = 1e-7  # too small for e4m3 if 1 is the largest
    return layer


def taken(layer: Linear, x: torch.Tensor, grad: torch.Tensor) -> Fp8Counts:
    watch = Fp8Watch({"one": layer}, every=1)
    watch.before_forward(0)
    layer(x).backward(grad)
    watch.after_backward(0, torch.zeros(()))
    return watch.history[0][1]["one"]


def test_planted_values_are_counted(layer: Linear) -> None:
    x, grad = torch.ones(2, 4, 16), torch.ones(2, 4, 16)
    x[0, 0, :4], x[0, 1] = 1e-7, 0.0  # zeros are not made zero
    grad[1, 1, :8] = 1e-12
    assert taken(layer, x, grad) == Fp8Counts(4 / 112, 1 / 17, 8 / 128, 0)
    grad[0, 0, 0], x[1, 2, 3] = math.nan, -math.inf
    assert taken(layer, x, grad).not_finite == 2


def test_several_calls_of_a_layer_are_counted_together(layer: Linear) -> None:
    watch = Fp8Watch({"one": layer}, every=1)
    watch.before_forward(0)
    few, many = torch.ones(1, 16), torch.ones(3, 16)
    few[0, 0] = 1e-7
    (layer(few).sum() + layer(many).sum()).backward()
    watch.after_backward(0, torch.zeros(()))
    assert watch.history[0][1]["one"].inputs == 1 / 64
    assert watch.history[0][1]["one"].weight == 1 / 17


def test_only_sampled_steps_and_layers_in_fp8_are_looked_at(layer: Linear) -> None:
    watch = Fp8Watch({"one": layer, "other": Linear(16, 16)}, every=3)
    for step in range(7):
        watch.before_forward(step)
        assert len(layer._forward_hooks) == ((step + 1) % 3 == 0)
        layer(torch.ones(2, 16)).sum().backward()
        watch.after_backward(step, torch.zeros(()))
        assert not layer._forward_hooks
    assert [step for step, _ in watch.history] == [2, 5]
    assert list(watch.history[0][1]) == ["one"]
    again = Fp8Watch({"one": layer}, every=3)
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.history == watch.history


def test_metrics_are_the_largest_shares_and_all_that_was_no_number() -> None:
    first = {"a": Fp8Counts(0.5, 0.5, 0.5, 3), "b": Fp8Counts(0.0, 0.0, 0.0, 1)}
    last = {"a": Fp8Counts(0.1, 0.0, 0.3, 0), "b": Fp8Counts(0.0, 0.2, 0.4, 2)}
    assert fp8_metrics([{}]) == {}
    assert fp8_metrics([first, {}, last]) == {
        "fp8_zeroed_inputs": 0.1,
        "fp8_zeroed_weight": 0.2,
        "fp8_zeroed_grads": 0.4,
        "fp8_not_finite": 6.0,
    }


def test_a_run_in_fp8_logs_the_counts(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrain(shop, tokenizer, RUN, Run(tmp_path / "run", device="cpu", progress=False))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[-1]["fp8_zeroed_inputs"] < 1
    assert rows[-1]["fp8_not_finite"] == 0
    report = fp8_report(tmp_path / "run")
    assert list(report) == list(linear_layers(model))
    assert max(row.inputs for row in report.values()) == rows[-1]["fp8_zeroed_inputs"]
    main(["info", str(tmp_path / "run")])
    assert "made zero by fp8" in capsys.readouterr().out
    main(["info", str(tmp_path / "run"), "--json"])
    found = json.loads(capsys.readouterr().out)["fp8"]
    assert found == {name: row._asdict() for name, row in report.items()}
    with pytest.raises(InputError, match="precision ladq"):
        precision_report(tmp_path / "run")

    plain = replace(RUN, precision="bf16", loop=replace(RUN.loop, epochs=1))
    pretrain(shop, tokenizer, plain, Run(tmp_path / "plain", device="cpu", progress=False))
    with pytest.raises(InputError, match="precision fp8 or ladq"):
        fp8_report(tmp_path / "plain")
