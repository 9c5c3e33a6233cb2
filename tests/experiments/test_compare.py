"""A comparison by one command: a row per method, folders that are not run twice, three files."""

import importlib.util
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reg4rec.alignment import AlignConfig
from reg4rec.baselines import RpgConfig, SASRec, SASRecConfig, TigerConfig
from reg4rec.data import Dataset, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.experiments import CompareConfig, Finding, compare, methods
from reg4rec.experiments.finding import Spread
from reg4rec.experiments.job import plain
from reg4rec.experiments.spaces import SPACES, changed, draw_changes
from reg4rec.loop import LoopConfig
from reg4rec.recipes import RECIPES, Recipe, RecipeName
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.search import SearchConfig
from reg4rec.settings import override

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
METHOD_NAMES = ("popularity", "item-knn", "sasrec", "tiger", "reg4rec-paper", "reg4rec")


@pytest.fixture(scope="module")
def small() -> Dataset:
    return synthetic_shop(num_users=80, num_items=60, num_facets=3, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def comparison(small: Dataset, folder: Path) -> Finding[Any]:
    return compare(small, CONFIG, out=folder, device="cpu")


def no_fit(fit: methods.Fit) -> methods.Fitted:
    raise AssertionError(f"{fit.identity} was fitted again")


@pytest.mark.slow
def test_every_method_has_a_row_under_every_protocol(comparison: Finding[Any]) -> None:
    assert [(row.protocol, row.method) for row in comparison.rows] == [
        (protocol, method) for protocol in ("standard", "filtered") for method in METHOD_NAMES
    ]
    seeds = {row.method: row.seeds for row in comparison.rows}
    assert seeds == {name: [0] if name in ("popularity", "item-knn") else [0, 1] for name in METHOD_NAMES}
    for row in comparison.rows:
        assert {len(values) for values in row.metrics.values()} == {len(row.seeds)}
        assert row.trained_on == "train"
        learns = row.method not in ("popularity", "item-knn")
        assert (row.parameters > 0, min(row.epochs) > 0) == (learns,) * 2
        assert min(row.train_seconds) > 0


@pytest.mark.slow
def test_the_figures_are_those_of_the_methods_alone(small: Dataset, comparison: Finding[Any]) -> None:
    rows = {(row.protocol, row.method): row for row in comparison.rows}
    popular = evaluate(Popularity.fit(small), small, protocol="filtered").rows[0].metrics
    assert {name: [value] for name, value in popular.items()} == rows["filtered", "popularity"].metrics
    sasrec = SASRec.fit(small, CONFIG.sasrec, Run(seed=1, device="cpu", progress=False))
    alone = evaluate(sasrec, small).rows[0].metrics
    assert {name: values[1] for name, values in rows["standard", "sasrec"].metrics.items()} == alone


@pytest.mark.slow
def test_the_files_say_what_was_compared(comparison: Finding[Any], folder: Path) -> None:
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
    assert len(lines) == 4  # under each protocol its quality, and what its lists are like
    assert str(next(row for row in comparison.rows if row.method == "sasrec").spread["recall@10"]) in lines[0]
    assert "seen items removed" in text
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_nothing_is_fitted_twice_and_what_is_new_is_added(
    small: Dataset, folder: Path, comparison: Finding[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, method in methods.METHODS.items():
        monkeypatch.setitem(methods.METHODS, name, method._replace(fit=no_fit))
    assert compare(small, CONFIG, out=folder, device="cpu").markdown() == comparison.markdown()

    monkeypatch.undo()
    monkeypatch.setitem(methods.METHODS, "reg4rec", methods.METHODS["reg4rec"]._replace(fit=no_fit))
    asked: dict[str, Any] = {"seeds": (1, 2), "methods": ("sasrec", "popularity")}
    found = compare(small, CONFIG, out=folder, device="cpu", **asked)
    assert found.rows[0].seeds == [1, 2]
    before = next(row for row in comparison.rows if row.method == "sasrec")
    assert found.rows[0].metrics["ndcg@10"][0] == before.metrics["ndcg@10"][1]


@pytest.mark.slow
def test_a_final_fit_trains_on_more_for_as_long_as_validation_chose(
    small: Dataset, folder: Path, comparison: Finding[Any], tmp_path: Path
) -> None:
    out = shutil.copytree(folder, tmp_path / "there")
    found = compare(small, CONFIG, out=out, device="cpu", seeds=(0,), protocols=("filtered", "final"))
    rows = {(row.protocol, row.method): row for row in found.rows}
    for method in METHOD_NAMES:
        before, final = rows["filtered", method], rows["final", method]
        assert (before.trained_on, final.trained_on) == ("train", "train+validation")
        assert before.epochs == final.epochs
    assert found.facts["cards"]["final"]["filter_seen"]
    assert rows["final", "sasrec"].spread["recall@10"].std is None


def test_a_final_fit_searches_as_validation_chose_before(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_steps": 1, "prune_threshold": 0.11, "num_beams": 33}

    def chosen(recommender: Recommender, *_: Any, **__: Any) -> tuple[Recommender, list[Any]]:
        return recommender.with_search(**settings), []

    monkeypatch.setattr("reg4rec.train.fit.calibrate", chosen)
    compare(small, CONFIG, out=tmp_path, device="cpu", seeds=(0,), methods=("reg4rec",), protocols=("final",))
    found = [Recommender.from_pretrained(path, "cpu") for path in (tmp_path / "fits").glob("model-*/recommender")]
    assert {one.trained_on for one in found} == {"train", "train+validation"}
    assert [one.config for one in found] == [SearchConfig(**settings)] * 2  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:reg4rec align")
def test_rows_that_begin_alike_share_their_fits(small: Dataset, tmp_path: Path) -> None:
    align = AlignConfig(group_size=2, validation_users=20, loop=replace(SHORT, epochs=1))
    config = replace(CONFIG, reg4rec=replace(CONFIG.reg4rec, align=align))
    names: Any = ("reg4rec", "reg4rec-paths", "reg4rec-aligned")
    found = compare(small, config, out=tmp_path, device="cpu", seeds=(0,), methods=names, protocols=("filtered",))
    stages = sorted(path.name.partition("-")[0] for path in (tmp_path / "fits").iterdir())
    assert stages == ["aligned", "model", "tokenizer"]
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "fits").glob("aligned-*/align.json"))
    whole, paths, aligned = found.rows
    assert (whole.epochs, whole.parameters) == (paths.epochs, paths.parameters)
    assert found.facts["cards"]["filtered"]["retrievers"] == {"reg4rec": "exact"}
    assert (aligned.metrics == whole.metrics) == (not record["kept"])
    assert aligned.train_seconds[0] > whole.train_seconds[0]
    model = Recommender.from_pretrained(next((tmp_path / "fits").glob("model-*/recommender")), "cpu")
    alone = evaluate(model.with_search(retriever="paths"), small, protocol="filtered").rows[0].metrics
    assert {name: [value] for name, value in alone.items()} == paths.metrics


def test_the_best_of_the_tries_is_fitted(small: Dataset, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ("item-knn", "sasrec"), "seeds": (0, 1), "protocols": ("filtered",), "tries": 3}
    found = compare(small, CONFIG, out=tmp_path, device="cpu", **asked)
    for name in ("item-knn", "sasrec"):
        tried = [one for one in found.facts["tries"] if one.method == name]
        own = CONFIG.sasrec if name == "sasrec" else CONFIG.item_knn
        assert [one.changes for one in tried] == draw_changes(SPACES["sparse"][name], 3, own)
        assert tried[0].changes == {}
        best = max(tried, key=lambda one: one.validation["ndcg@10"])
        assert found.facts["chosen"][name] == best.changes
        assert found.settings[name] == plain(changed(own, best.changes))
    assert "| item-knn |" in found.markdown()
    row = found.rows[1]
    model = SASRec.fit(
        small,
        changed(CONFIG.sasrec, found.facts["chosen"]["sasrec"] | {"protocol": "filtered"}),
        Run(seed=1, progress=False),
    )
    assert evaluate(model, small, protocol="filtered").rows[0].metrics["ndcg@10"] == row.metrics["ndcg@10"][1]

    for out in (tmp_path / "more", tmp_path):  # another folder, and the same one without tries
        winners = None if out == tmp_path else tmp_path
        again = compare(small, CONFIG, out=out, winners=winners, methods=("sasrec", "popularity"), seeds=(0,))
        assert again.facts["chosen"]["sasrec"] == found.facts["chosen"]["sasrec"]
        assert again.settings["sasrec"] == found.settings["sasrec"]
    with pytest.raises(InputError, match="holds no settings of ease"):
        compare(small, CONFIG, out=tmp_path / "other", winners=tmp_path, methods=("ease",))
    tuned = compare(small, CONFIG, out=tmp_path / "three", methods=("popularity",), seeds=(0,), tries=3)
    assert [one.changes for one in tuned.facts["tries"]] == [{}]


def test_rpg_is_fitted_once_a_seed_and_in_the_end_on_more(small: Dataset, tmp_path: Path) -> None:
    rpg = replace(RpgConfig(), dim=16, num_blocks=1, ffn_dim=16, validation_users=20, loop=SHORT)
    rpg = replace(rpg, tokenizer=replace(rpg.tokenizer, num_codebooks=2, codebook_size=8))
    asked: dict[str, Any] = {"methods": ("rpg",), "seeds": (0,), "protocols": ("filtered", "final")}
    first, final = compare(small, CONFIG, out=tmp_path, rpg=rpg, **asked).rows
    assert first.epochs == final.epochs != [0]
    assert min(first.train_seconds + final.train_seconds) > 0
    assert [first.trained_on, final.trained_on] == ["train", "train+validation"]


def test_gains_are_those_of_the_users(small: Dataset, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ("popularity", "item-knn"), "seeds": (0,), "protocols": ("standard",)}
    popular, near = compare(small, CONFIG, out=tmp_path, device="cpu", **asked).rows
    mean, low, high = popular.beyond["recall@10"]
    assert mean == pytest.approx(popular.metrics["recall@10"][0] - near.metrics["recall@10"][0])
    assert low <= mean <= high
    assert not near.beyond


def test_draws_are_different_and_no_more_than_there_are() -> None:
    begin = SASRecConfig(dim=64, num_heads=1)
    drawn = draw_changes({"dim": (32, 64), "num_heads": (1, 2)}, 12, begin)
    made = [changed(begin, changes) for changes in drawn]
    assert drawn[0] == {}
    assert len(drawn) == 4  # one of the four is the first setting
    assert all(made.count(settings) == 1 for settings in made)
    space = SPACES["sparse"]["sasrec"]
    assert draw_changes(space, 12, begin)[:5] == draw_changes(space, 5, begin)
    assert draw_changes({}, 12, {}) == [{}]


def test_without_matplotlib_the_picture_is_left_out_and_that_is_said(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = compare(small, CONFIG, out=tmp_path, methods=("popularity",))
    assert not (tmp_path / "compare.png").exists()
    assert "compare.png was left out: matplotlib is not installed" in (tmp_path / "compare.md").read_text()
    assert found.notes


def test_other_data_in_a_folder_is_refused(small: Dataset, tmp_path: Path) -> None:
    compare(small, CONFIG, out=tmp_path, methods=("popularity",))
    with pytest.raises(InputError, match="holds a comparison on other data"):
        compare(synthetic_shop(num_users=30, num_items=50), CONFIG, out=tmp_path, methods=("popularity",))


def test_the_spread_of_one_value_has_no_deviation() -> None:
    assert str(Spread.of([0.25])) == "0.2500"
    assert str(Spread.of([0.25, 0.35])) == "0.3000 ± 0.0707"
