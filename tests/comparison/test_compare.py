"""A comparison from one command: a row a method, folders that are not run twice, three files."""

import contextlib
import importlib.util
import io
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reg4rec.baselines import SASRec, SASRecConfig, TigerConfig
from reg4rec.cli import main
from reg4rec.comparison import CompareConfig, Comparison, compare, methods
from reg4rec.comparison.table import Spread
from reg4rec.data import Dataset, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.infer import Recommender, SearchConfig
from reg4rec.loop import LoopConfig
from reg4rec.recipes import RECIPES, Recipe, RecipeName
from reg4rec.run import Run
from reg4rec.settings import override
from reg4rec.train import AlignConfig

SHORT = LoopConfig(epochs=2, learning_rate=5e-3)
TOKENS = {
    "num_codebooks": 2,
    "codebook_size": 8,
    "codeword_dim": 8,
    "hidden_dim": 16,
    "epochs": 6,
    "autoencoder_epochs": 2,
}
TIGER_TOKENS = TOKENS | {
    "hidden_dim": 64,
    "epochs": 24,
    "autoencoder_epochs": 8,
    "batch_size": 16,
    "learning_rate": 1e-2,
}
MODEL = {"size": "tiny", "validation_users": 20, "loop": replace(SHORT, epochs=1)}


def small_recipe(name: RecipeName) -> Recipe:
    return RECIPES[name].change(TOKENS, MODEL)


CONFIG = CompareConfig(
    seeds=(0, 1),
    sasrec=SASRecConfig(dim=16, ffn_dim=16, num_negatives=20, validation_users=50, loop=SHORT),
    tiger=TigerConfig(override(TigerConfig().tokenizer, TIGER_TOKENS), override(TigerConfig().pretrain, MODEL)),
    reg4rec=small_recipe("default"),
    paper=small_recipe("paper"),
)
LOOP_FLAGS = {"loop.epochs": 1, "loop.learning-rate": 5e-3, "loop.weight-decay": 0, "loop.patience": 0}
MODEL_FLAGS = {"pretrain.validation-users": 20} | {f"pretrain.{name}": value for name, value in LOOP_FLAGS.items()}
SASREC_FLAGS = {"dim": 16, "ffn-dim": 16, "num-negatives": 20, "validation-users": 50} | LOOP_FLAGS | {"loop.epochs": 2}
TOKEN_FLAGS, TIGER_FLAGS = (
    {f"tokenizer.{name.replace('_', '-')}": value for name, value in tokens.items()} | MODEL_FLAGS
    for tokens in (TOKENS, TIGER_TOKENS)
)
FLAGS = [
    word
    for method, flags in (
        ("sasrec", SASREC_FLAGS),
        ("tiger", TIGER_FLAGS),
        ("paper", TOKEN_FLAGS),
        ("reg4rec", TOKEN_FLAGS),
    )
    for name, value in flags.items()
    for word in (f"--{method}.{name}", str(value))
]
METHOD_NAMES = ("popularity", "sasrec", "tiger", "reg4rec-paper", "reg4rec")


@pytest.fixture(scope="module")
def small() -> Dataset:
    return synthetic_shop(num_users=80, num_items=60, num_facets=3, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def comparison(small: Dataset, folder: Path) -> Comparison:
    return compare(small, CONFIG, out=folder, device="cpu")


def no_fit(job: methods.Job) -> methods.Fitted:
    raise AssertionError(f"{job.out} was fitted again")


@pytest.mark.slow
def test_every_method_has_a_row_under_every_protocol(comparison: Comparison) -> None:
    assert [(row.protocol, row.method) for row in comparison.rows] == [
        (protocol, method) for protocol in ("standard", "filtered") for method in METHOD_NAMES
    ]
    seeds = {row.method: row.seeds for row in comparison.rows}
    assert seeds == {"popularity": [0], "sasrec": [0, 1], "tiger": [0, 1], "reg4rec-paper": [0, 1], "reg4rec": [0, 1]}
    for row in comparison.rows:
        assert {len(values) for values in row.metrics.values()} == {len(row.seeds)}
        assert row.trained_on == "train"
        learns = row.method != "popularity"
        assert (row.parameters > 0, min(row.train_seconds) > 0, min(row.epochs) > 0) == (learns,) * 3


@pytest.mark.slow
def test_the_figures_are_those_of_the_methods_alone(small: Dataset, comparison: Comparison) -> None:
    rows = {(row.protocol, row.method): row for row in comparison.rows}
    popular = evaluate(Popularity.fit(small), small, protocol="filtered").rows[0].metrics
    assert {name: [value] for name, value in popular.items()} == rows["filtered", "popularity"].metrics
    sasrec = SASRec.fit(small, CONFIG.sasrec, Run(seed=1, device="cpu", progress=False))
    alone = evaluate(sasrec, small).rows[0].metrics
    assert {name: values[1] for name, values in rows["standard", "sasrec"].metrics.items()} == alone


@pytest.mark.slow
def test_the_files_say_what_was_compared(comparison: Comparison, folder: Path) -> None:
    stored = json.loads((folder / "compare.json").read_text())
    assert stored["cards"]["filtered"]["filter_seen"]
    assert stored["settings"]["sasrec"]["num_negatives"] == 20
    assert stored["settings"]["reg4rec"]["tokenizer"]["codebook_size"] == 8
    assert {"reg4rec", "torch", "python"} <= stored["versions"].keys()
    row = next(row for row in stored["rows"] if row["method"] == "sasrec")
    values = row["metrics"]["ndcg@10"]
    assert row["spread"]["ndcg@10"] == {"mean": statistics.fmean(values), "std": statistics.stdev(values)}

    text = (folder / "compare.md").read_text()
    assert text == comparison.markdown()
    lines = [line for line in text.splitlines() if line.startswith("| sasrec")]
    assert len(lines) == 2
    assert str(comparison.rows[1].spread("recall@10")) in lines[0]
    assert "seen items removed" in text
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_runs_nothing_twice_and_adds_what_is_new(
    small: Dataset, folder: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(folder / "data")
    data = ["--data", str(folder / "data"), "--out", str(folder), "--device", "cpu", "--size", "tiny", *FLAGS]
    for name, method in methods.METHODS.items():
        monkeypatch.setitem(methods.METHODS, name, method._replace(fit=no_fit))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["compare", "--seeds", "0", "1", *data])
    assert comparison.markdown() in printed.getvalue()

    monkeypatch.undo()
    monkeypatch.setitem(methods.METHODS, "reg4rec", methods.METHODS["reg4rec"]._replace(fit=no_fit))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["compare", "--seeds", "1", "2", "--methods", "sasrec", "popularity", "--json", *data])
    found = json.loads(printed.getvalue())
    rows = {(row["protocol"], row["method"]): row for row in found["rows"]}
    assert rows["standard", "sasrec"]["seeds"] == [1, 2]
    assert rows["standard", "sasrec"]["metrics"]["ndcg@10"][0] == comparison.rows[1].metrics["ndcg@10"][1]


@pytest.mark.slow
def test_a_final_fit_trains_on_more_for_as_long_as_validation_chose(
    small: Dataset, folder: Path, comparison: Comparison, tmp_path: Path
) -> None:
    out = shutil.copytree(folder, tmp_path / "there")
    found = compare(small, CONFIG, out=out, device="cpu", seeds=(0,), protocols=("filtered", "final"))
    rows = {(row.protocol, row.method): row for row in found.rows}
    for method in METHOD_NAMES:
        before, final = rows["filtered", method], rows["final", method]
        assert (before.trained_on, final.trained_on) == ("train", "train+validation")
        assert before.epochs == final.epochs
    assert found.cards["final"]["filter_seen"]
    assert rows["final", "sasrec"].spread("recall@10").std is None


def test_a_final_fit_searches_as_validation_chose_before(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_steps": 1, "prune_threshold": 0.11, "num_beams": 33}

    def chosen(recommender: Recommender, *_: Any, **__: Any) -> tuple[Recommender, list[Any]]:
        return recommender.with_search(**settings), []

    monkeypatch.setattr("reg4rec.train.fit.calibrate", chosen)
    compare(small, CONFIG, out=tmp_path, device="cpu", seeds=(0,), methods=("reg4rec",), protocols=("final",))
    first, final = (
        Recommender.from_pretrained(tmp_path / "runs" / "reg4rec" / run / "model" / "recommender", "cpu")
        for run in ("seed-0", "seed-0-final")
    )
    assert (first.trained_on, final.trained_on) == ("train", "train+validation")
    assert final.config == first.config == SearchConfig(**settings)  # type: ignore[arg-type]


def test_an_aligned_method_starts_from_the_fit_of_the_same_seed(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def kept(recommender: Recommender, data: Dataset, config: AlignConfig, run: Run) -> Recommender:
        started.append((recommender.fingerprint(), recommender.model.scores_items, config, run.folder, run.seed))
        return recommender

    monkeypatch.setattr(methods, "align", kept)
    names: Any = ("reg4rec", "reg4rec-aligned", "reg4rec-paper-aligned")
    found = compare(small, CONFIG, out=tmp_path, device="cpu", seeds=(1,), methods=names, protocols=("standard",))
    runs = tmp_path / "runs"
    starts = [runs / name / "seed-1" / "model" / "recommender" for name in ("reg4rec", "reg4rec-paper")]
    outs = [runs / name / "seed-1" for name in names[1:]]
    assert started == [
        (Recommender.from_pretrained(start, "cpu").fingerprint(), scores_items, recipe.align, out, 1)
        for start, scores_items, out, recipe in zip(
            starts, (True, False), outs, (CONFIG.reg4rec, CONFIG.paper), strict=True
        )
    ]
    before, after, _ = found.rows
    assert after.metrics == before.metrics
    with pytest.raises(InputError, match=r"settings\.align\.window"):
        compare(
            small,
            CONFIG,
            out=tmp_path,
            seeds=(1,),
            methods=names,
            reg4rec=replace(CONFIG.reg4rec, align=AlignConfig(window=2)),
        )


@pytest.mark.filterwarnings("ignore:reg4rec align")
def test_alignment_is_compared_for_real(small: Dataset, tmp_path: Path) -> None:
    align = AlignConfig(group_size=2, validation_users=20, loop=replace(SHORT, epochs=1), recipe="paper")
    names: Any = ("reg4rec-paper-aligned",)
    config = replace(CONFIG, paper=replace(CONFIG.paper, align=align))
    found = compare(small, config, out=tmp_path, device="cpu", seeds=(0,), methods=names)
    record = json.loads((tmp_path / "runs" / "reg4rec-paper-aligned" / "seed-0" / "align.json").read_text())
    assert record["kept"] == (record["after"]["validation_recall@10"] > record["before"]["validation_recall@10"])
    assert [(row.protocol, row.epochs) for row in found.rows] == [("standard", [1]), ("filtered", [1])]
    assert min(found.rows[0].train_seconds) > 0


def test_without_matplotlib_the_picture_is_left_out_and_that_is_said(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = compare(small, CONFIG, out=tmp_path, methods=("popularity",))
    assert not (tmp_path / "compare.png").exists()
    assert "compare.png was left out: matplotlib is not installed" in (tmp_path / "compare.md").read_text()
    assert found.notes


@pytest.mark.slow
def test_a_run_with_other_settings_is_refused(small: Dataset, folder: Path, comparison: Comparison) -> None:
    other = replace(CONFIG, sasrec=replace(CONFIG.sasrec, dim=32))
    with pytest.raises(InputError, match=r"holds a run with other settings\.dim;"):
        compare(small, other, out=folder, device="cpu")
    with pytest.raises(InputError, match="holds a run with other dataset"):
        compare(synthetic_shop(num_users=30, num_items=50), CONFIG, out=folder, methods=("popularity",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"methods": ()}, "methods are one or more"),
        ({"methods": ("sasrec", "sasrec")}, "each once"),
        ({"methods": ("tea leaves",)}, "found .'tea leaves'"),
        ({"protocols": ("loose",)}, "protocols are one or more"),
        ({"seeds": ()}, "seeds are one or more"),
        ({"seeds": (1, 1)}, "each once"),
        ({"sasrec": SASRecConfig(part="train+validation")}, "the protocol final"),
        ({"methods": ("reg4rec-aligned",), "protocols": ("final",)}, "reg4rec-aligned has no protocol final"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CompareConfig(**wrong)


def test_the_spread_of_one_value_has_no_deviation() -> None:
    assert str(Spread.of([0.25])) == "0.2500"
    assert str(Spread.of([0.25, 0.35])) == "0.3000 ± 0.0707"
