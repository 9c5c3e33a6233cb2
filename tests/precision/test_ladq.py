"""LADQ: its trace against the Fisher matrix and the Hessian, its choices, spikes, resume, and training with it."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg4rec import loop
from reg4rec.cli import main
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.model import Format, Linear
from reg4rec.precision.ladq import (
    Ladq,
    LadqConfig,
    classes_of,
    formats_of,
    linear_layers,
    precision_report,
    read_ladq,
    sensitivity,
    set_formats,
)
from reg4rec.precision.plot import draw_formats
from reg4rec.run import Run
from reg4rec.settings import override
from reg4rec.storage import read_json, write_json
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import PretrainConfig, pretrain

QUICK = PretrainConfig(
    size="tiny",
    max_history=8,
    batch_targets=1024,
    validation_users=30,
    precision="ladq",
    ladq=LadqConfig(sample_every=2, fp32_share=0.2, fp8_share=0.4),
    loop=LoopConfig(epochs=2, learning_rate=3e-3, log_every=1, checkpoint_seconds=0.0),
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Costs are measured into a folder of this test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("REG4REC_CACHE", str(folder))
    return folder


def network(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def sample(ladq: Ladq, module: nn.Module, x: Tensor, loss_of: Any) -> dict[str, float]:
    """The traces of one step that is sampled."""
    ladq.before_forward(ladq.config.sample_every - 1)
    loss = loss_of(module(x))
    loss.backward()
    ladq.after_backward(ladq.config.sample_every - 1, loss)
    return ladq.run.traces


def known_costs(cache: Path, seconds: dict[Format, float]) -> None:
    """Replace the measured times by these."""
    path = cache / "format-costs.json"
    table = {machine: dict.fromkeys(sizes, seconds) for machine, sizes in read_json(path).items()}
    write_json(path, table)


def test_trace_of_one_sample_is_that_of_the_empirical_fisher() -> None:
    module = network((16, 32, 48, 16))
    traces = sample(Ladq(module, LadqConfig()), module, torch.randn(1, 16), lambda y: y.square().sum())
    for name, layer in linear_layers(module).items():
        assert layer.weight.grad is not None
        assert traces[name] == pytest.approx(float(layer.weight.grad.square().sum()), rel=1e-5)


def test_trace_of_several_samples_is_the_product_of_mean_squares() -> None:
    module, x_TXD = network((16, 32, 16)), torch.randn(5, 3, 16)
    traces = sample(Ladq(module, LadqConfig()), module, x_TXD, lambda y: y.square().sum((1, 2)).mean())
    inside = torch.tanh(module[0](x_TXD)).detach()
    out = module[2](inside).detach()
    grads = (2 * out).square().sum((1, 2)).mean()  # a sample's own gradient at the output
    assert traces["2"] == pytest.approx(float(inside.square().sum(-1).mean() * grads), rel=1e-5)


def test_trace_ranks_layers_as_the_hessian_does() -> None:
    module = network((32, 48, 16, 64, 16, 32, 16, 48, 16, 8))
    x, y = torch.randn(256, 32), torch.randint(0, 8, (256,))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    labels = torch.distributions.Categorical(logits=module(x).detach()).sample()
    module.zero_grad()
    traces = sample(Ladq(module, LadqConfig()), module, x, lambda out: F.cross_entropy(out, labels))

    layers = linear_layers(module)
    weights = [layer.weight for layer in layers.values()]
    grads = torch.autograd.grad(F.cross_entropy(module(x), labels), weights, create_graph=True)
    hutchinson = torch.zeros(len(weights))
    for _ in range(200):
        signs = [torch.randint(0, 2, w.shape) * 2.0 - 1 for w in weights]
        for i, (grad, sign) in enumerate(zip(grads, signs, strict=True)):  # the block of each layer alone
            (product,) = torch.autograd.grad(grad, weights[i], sign, retain_graph=True)
            hutchinson[i] += (product * sign).sum() / 200
    ranks = torch.stack([torch.tensor([traces[n] for n in layers]).argsort().argsort(), hutchinson.argsort().argsort()])
    assert torch.corrcoef(ranks.double())[0, 1] >= 0.8


def test_sensitivity_is_curvature_times_rounding_error() -> None:
    weight = torch.tensor([[1.0, 1.0 + 2.0**-9], [448.0, 0.5]])
    found = sensitivity(weight, trace=8.0)
    assert found["bf16"] == pytest.approx(8.0 / 4 * (2.0**-9) ** 2 / 4)  # the largest weight makes the fp8 scale 1
    assert found["fp8"] == pytest.approx(8.0 / 4 * (2.0**-9) ** 2 / 4)


def test_classes_follow_the_ranking_and_keep_near_a_border() -> None:
    config = LadqConfig(fp32_share=0.1, fp8_share=0.5, hysteresis=0.1)
    cost = {f"l{i}": 10.0 - i for i in range(10)}
    first = classes_of(cost, {}, config)
    assert list(first.values()) == ["fp32"] + ["bf16"] * 4 + ["fp8"] * 5
    swapped = {**cost, "l0": cost["l1"], "l1": cost["l0"], "l4": cost["l5"], "l5": cost["l4"]}
    assert classes_of(swapped, first, config) == first  # one rank beyond the border
    assert classes_of(swapped, {}, config) != first
    reversed_cost = {name: -value for name, value in cost.items()}
    assert classes_of(reversed_cost, first, config)["l9"] == "fp32"
    assert classes_of(reversed_cost, first, config)["l0"] == "fp8"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"fp32": 1.0, "bf16": 2.0, "fp8": 3.0}, ["fp32"] * 4),  # nothing coarser is faster
        ({"fp32": 3.0, "bf16": 1.0, "fp8": 2.0}, ["fp32", "bf16", "bf16", "bf16"]),
        ({"fp32": 3.0, "bf16": 2.0, "fp8": 1.0}, ["fp32", "bf16", "fp8", "fp8"]),
        ({"fp32": 3.0, "bf16": 2.0}, ["fp32", "bf16", "bf16", "bf16"]),  # fp8 cannot run
    ],
)
def test_a_format_is_given_only_where_it_is_faster(
    cache: Path, seconds: dict[Format, float], expected: list[str]
) -> None:
    module, config = network((16,) * 5), LadqConfig(fp32_share=0.25, fp8_share=0.5, slowdown=1.0)
    x, loss_of = torch.randn(8, 16), lambda y: y.square().sum(1).mean()
    sample(Ladq(module, config), module, x, loss_of)
    known_costs(cache, seconds)
    set_formats(linear_layers(module), "fp32")
    ladq = Ladq(module, config)
    sample(ladq, module, x, loss_of)
    ranked = sorted(ladq.precision_report(), key=lambda row: -row.sensitivity["fp8"])
    assert [row.format for row in ranked] == expected
    assert [layer.format for layer in ladq.layers.values()] == [row.format for row in ladq.precision_report()]
    assert ladq.report()["layers_fp32"] == expected.count("fp32")


@pytest.mark.parametrize(
    ("slowdown", "expected"),
    [
        (0.0, ["bf16", "bf16", "bf16", "bf16"]),
        (0.02, ["bf16", "fp32", "bf16", "bf16"]),  # the first takes more than the limit, the second does not
        (0.3, ["fp32", "bf16", "bf16", "bf16"]),  # the first is the more sensitive and leaves nothing
        (1.0, ["fp32", "fp32", "bf16", "bf16"]),
    ],
)
def test_sensitive_layers_stay_in_fp32_while_that_costs_little(slowdown: float, expected: list[Format]) -> None:
    classes: dict[str, Format] = {"a": "fp32", "b": "fp32", "c": "bf16", "d": "fp8"}
    cost = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    seconds: dict[str, dict[Format, float]] = {name: {"fp32": 40.0, "bf16": 10.0} for name in cost}
    seconds["b"] = {"fp32": 71.0, "bf16": 70.0}  # 100 in bf16 for all
    assert list(formats_of(classes, cost, seconds, slowdown).values()) == expected


def test_layers_are_timed_at_the_largest_batch_so_far(cache: Path) -> None:
    module = network((16, 16))
    ladq = Ladq(module, LadqConfig())
    sizes = []
    for rows in (8, 40, 20):
        sample(ladq, module, torch.randn(rows, 16), lambda y: y.square().sum(1).mean())
        sizes.append(set(ladq.run.sizes.values()))
    assert sizes == [{"8 x 16 -> 16"}, {"64 x 16 -> 16"}, {"64 x 16 -> 16"}]
    assert set(ladq.run.costs) == {"64 x 16 -> 16"}


def test_what_fp8_saves_pays_for_fp32() -> None:
    classes: dict[str, Format] = {"a": "fp32", "b": "fp8"}
    seconds: dict[str, dict[Format, float]] = {name: {"fp32": 40.0, "bf16": 20.0, "fp8": 10.0} for name in classes}
    assert formats_of(classes, {"a": 2.0, "b": 1.0}, seconds, 0.0) == {"a": "bf16", "b": "fp8"}
    assert formats_of(classes, {"a": 2.0, "b": 1.0}, seconds, 0.25) == {"a": "fp32", "b": "fp8"}


def test_a_sample_counts_what_fp8_did_to_its_layers(cache: Path) -> None:
    module, config = network((16,) * 5), LadqConfig(fp32_share=0.25, fp8_share=0.5)
    x, loss_of = torch.randn(8, 16), lambda y: y.square().sum(1).mean()
    sample(Ladq(module, config), module, x, loss_of)
    known_costs(cache, {"fp32": 3.0, "bf16": 2.0, "fp8": 1.0})
    set_formats(linear_layers(module), "fp32")
    ladq = Ladq(module, config)
    sample(ladq, module, x, loss_of)
    assert all(row.fp8_counts is None for row in ladq.precision_report())
    assert "fp8_not_finite" not in ladq.report()
    given = [row.layer for row in ladq.precision_report() if row.format == "fp8"]
    x[0, 0] = torch.nan
    sample(ladq, module, x, loss_of)
    counts = {row.layer: row.fp8_counts for row in ladq.precision_report() if row.fp8_counts is not None}
    assert list(counts) == given
    assert ladq.report()["fp8_not_finite"] == sum(row.not_finite for row in counts.values()) > 0
    again = Ladq(network((16,) * 5), config)
    again.restore(json.loads(json.dumps(ladq.state())))
    assert {row.layer: row.fp8_counts for row in again.precision_report() if row.fp8_counts is not None} == counts


def test_a_spike_sends_all_layers_to_fp32_until_fresh_traces_agree(cache: Path) -> None:
    module, config = network((16,) * 5), LadqConfig(sample_every=10, fresh_samples=3, stability=0.2)
    ladq = Ladq(module, config)

    def step(number: int, scale: float = 1.0) -> None:
        ladq.before_forward(number)
        torch.manual_seed(1)
        loss = scale * module(torch.randn(8, 16)).square().sum(1).mean()
        loss.backward()
        ladq.after_backward(number, loss)

    for number in range(10):
        step(number)
    known_costs(cache, {"fp32": 3.0, "bf16": 1.0})
    ladq = Ladq(module, config)
    for number in range(20):
        step(number)
    assert ladq.report()["layers_bf16"] > 0
    step(20, scale=3.0)
    for number in range(21, 40):
        step(number)
    assert ladq.run.spikes == [39]
    assert ladq.report()["layers_fp32"] == 4
    for number, scale in ((40, 1.0), (41, 10.0), (42, 1.0)):  # these samples do not agree
        step(number, scale)
    assert ladq.report()["layers_fp32"] == 4
    for number in (43, 44, 45):
        step(number)
    assert ladq.report()["layers_bf16"] > 0
    assert ladq.run.history[-1][0] == 45
    again = Ladq(network((16,) * 5), config)
    again.restore(json.loads(json.dumps(ladq.state())))
    assert again.precision_report() == ladq.precision_report()
    assert again.report() == ladq.report()


def test_a_loss_that_grows_slowly_is_a_spike_too(cache: Path) -> None:
    module = network((16,) * 5)
    ladq = Ladq(module, LadqConfig(sample_every=1000, fresh_samples=2, stability=1e9))

    def grow(steps: range, rate: float) -> None:
        for number in steps:
            ladq.before_forward(number)
            torch.manual_seed(1)
            loss = rate**number * module(torch.randn(8, 16)).square().sum(1).mean()
            loss.backward()
            ladq.after_backward(number, loss)

    grow(range(60), 0.99)
    assert ladq.run.spikes == []
    ladq.restore(json.loads(json.dumps(ladq.state())))
    grow(range(60, 180), 1.03)
    assert len(ladq.run.spikes) > 2


def test_only_training_is_rounded() -> None:
    torch.manual_seed(0)
    layer, x = Linear(32, 16), torch.randn(5, 3, 32)
    exact = layer(x)
    formats: dict[Format, int] = {"bf16": 8, "fp8": 3}
    for layer.format, bits in formats.items():
        rounded = layer.train()(x)
        assert rounded.dtype == torch.float32
        assert rounded.shape == exact.shape
        assert not torch.equal(rounded, exact)
        assert (rounded - exact).abs().max() < 4 * 2.0**-bits * exact.abs().max()
        assert torch.equal(layer.eval()(x), exact)
    assert Linear(24, 16).formats == ("fp32", "bf16")


@pytest.mark.parametrize("precision", ["bf16", "fp8", "ladq"])
def test_training_in_few_bits_reaches_the_loss_of_fp32(
    shop: SyntheticShop, tokenizer: Tokenizer, precision: str, tmp_path: Path
) -> None:
    def last_loss(precision: str) -> float:
        model = pretrain(
            shop, tokenizer, QUICK, Run(tmp_path / precision, device="cpu", progress=False), precision=precision
        )
        assert all(layer.format == "fp32" for layer in linear_layers(model).values())
        rows = [json.loads(line) for line in (tmp_path / precision / "metrics.jsonl").read_text().splitlines()]
        return rows[-1]["loss"]

    assert last_loss(precision) == pytest.approx(last_loss("fp32"), rel=0.02)


def test_a_killed_run_goes_on_to_the_same_bits(shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def weights(out: Path) -> dict[str, Tensor]:
        return pretrain(shop, tokenizer, QUICK, Run(out, device="cpu", progress=False)).state_dict()

    whole = weights(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        save, saved = loop.save_checkpoint, []

        def save_until_killed(*args: Any) -> None:
            save(*args)
            saved.append(args)
            if len(saved) == 4:
                raise KeyboardInterrupt

        patch.setattr(loop, "save_checkpoint", save_until_killed)
        with pytest.raises(KeyboardInterrupt):
            weights(tmp_path / "cut")
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert read_ladq(tmp_path / "cut") == read_ladq(tmp_path / "whole")


def test_the_report_of_a_run(
    shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrain(shop, tokenizer, QUICK, Run(tmp_path / "run", device="cpu", progress=False))
    rows = precision_report(tmp_path / "run")
    assert [row.layer for row in rows] == list(linear_layers(model))
    assert all(row.changes[0][0] == 1 and row.changes[-1][1] == row.format for row in rows)
    assert all(row.sensitivity["fp8"] >= row.sensitivity["bf16"] > 0 for row in rows)
    assert all(row.seconds["fp32"] > 0 for row in rows)
    assert draw_formats(tmp_path / "run", tmp_path / "formats.png") is None
    assert (tmp_path / "formats.png").read_bytes().startswith(b"\x89PNG")

    main(["info", str(tmp_path / "run")])
    text = capsys.readouterr().out
    assert "encoder.0.ffn.down" in text
    assert "2 of 2" in text
    main(["info", str(tmp_path / "run"), "--json"])
    assert len(json.loads(capsys.readouterr().out)["layers"]) == len(rows)

    plain = replace(QUICK, precision="bf16", loop=replace(QUICK.loop, epochs=1))
    pretrain(shop, tokenizer, plain, Run(tmp_path / "plain", device="cpu", progress=False))
    with pytest.raises(InputError, match="precision ladq"):
        precision_report(tmp_path / "plain")
    with pytest.raises(InputError, match="precision ladq"):
        precision_report(tmp_path / "nothing")


def test_a_module_without_layers_to_choose_for() -> None:
    with pytest.raises(ValueError, match=r"no reg4rec\.model\.Linear"):
        Ladq(nn.Linear(4, 4), LadqConfig())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sample_every", 0),
        ("decay", 1.0),
        ("fp32_share", 1.1),
        ("fp8_share", 0.95),
        ("slowdown", -0.1),
        ("hysteresis", -0.1),
        ("spike", 1.0),
        ("fresh_samples", 1),
        ("stability", 0.0),
    ],
)
def test_settings_that_make_no_sense(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{setting} is {value}"):
        override(LadqConfig(), {setting: value})
    with pytest.raises(InputError, match="precision is 'fp4'"):
        PretrainConfig(precision="fp4")  # type: ignore[arg-type]
