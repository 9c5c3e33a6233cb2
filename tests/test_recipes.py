"""A fit from files to an evaluated recommender: its stages, kill and resume, and recipes applied as a whole."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import reg4rec
from reg4rec import recipes
from reg4rec.alignment import AlignConfig, align
from reg4rec.alignment.stage import AlignStage
from reg4rec.cli import main
from reg4rec.data import Dataset, ViewConfig, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.recipes import RECIPES, Recipe, recipe_named
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.tokenizer.stage import TokenizerStage
from reg4rec.train import PretrainConfig, fit_recommender
from reg4rec.train.pretrain import PretrainStage

LOOP = LoopConfig(epochs=2, learning_rate=4e-3, log_every=1, checkpoint_seconds=0.0)
SMALL = Recipe(
    TokenizerConfig(
        num_codebooks=3,
        codebook_size=8,
        codeword_dim=8,
        hidden_dim=32,
        epochs=6,
        autoencoder_epochs=2,
        batch_size=16,
        views=ViewConfig(text_dim=12, collaborative_dim=4),
    ),
    PretrainConfig(size="tiny", max_history=8, num_beams=9, validation_users=40, batch_targets=256, loop=LOOP),
    AlignConfig(batch_users=60, group_size=4, validation_users=40, loop=replace(LOOP, epochs=1, learning_rate=5e-5)),
)


class Killed(BaseException):
    """Stands for anything that ends a fit from outside."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Interactions and items of a shop as CSV, with unusual column names."""
    folder, shop = tmp_path_factory.mktemp("files"), synthetic_shop(num_users=120, num_items=60, num_facets=3, seed=0)
    ids = shop.items.ids.to_pylist()
    rows = [(f"u{u}", ids[i], t) for u in range(shop.num_users) for t, i in enumerate(shop.sequences[u])]
    pl.DataFrame(rows, schema=["customer", "item_id", "timestamp"], orient="row").write_csv(folder / "clicks.csv")
    titles = shop.items.table["title"].to_pylist()
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(folder / "items.csv")
    return folder / "clicks.csv", folder / "items.csv"


def fit(files: tuple[Path, Path], out: Path | None, **options: Any) -> Recommender:
    return reg4rec.fit(
        *files, **{"out": out, "recipe": SMALL, "reading": {"user": "customer"}, "progress": False, **options}
    )


@pytest.fixture(scope="module")
def fitted(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recommender]:
    out = tmp_path_factory.mktemp("fit") / "shop"
    return out, fit(files, out, aligned=True)


def same_bits(one: Recommender, other: Recommender) -> bool:
    weights, others = one.model.state_dict(), other.model.state_dict()
    return (
        weights.keys() == others.keys()
        and all(torch.equal(weights[name], others[name]) for name in weights)
        and torch.equal(one.tokenizer.codes_IM, other.tokenizer.codes_IM)
        and one.config == other.config
    )


def test_the_road_is_its_stages(fitted: tuple[Path, Recommender], tmp_path: Path) -> None:
    out, recommender = fitted
    data, quiet = Dataset.load(out / "data"), Run(progress=False)
    tokenizer = fit_tokenizer(data, SMALL.tokenizer, quiet)
    by_stages = align(fit_recommender(data, tokenizer, SMALL.pretrain, quiet), data, SMALL.align, quiet)
    assert same_bits(recommender, by_stages)
    assert same_bits(recommender, Recommender.from_pretrained(out / "recommender"))
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    report = reg4rec.evaluate([reg4rec.Popularity.fit(data), by_stages], data)
    assert [row["metrics"] for row in rows] == [row.metrics for row in report.rows]
    assert SMALL.changed_by_file(out / "recipe.yaml") == SMALL
    card = Recommender.from_pretrained(out / "recommender").card
    assert card == recommender.card
    assert (card["reg4rec"], card["dataset"]) == (reg4rec.__version__, data.name)
    assert card["metrics"] == report.rows[1].metrics


def test_the_command_takes_settings_from_a_file(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SMALL.save(tmp_path / "small.yaml")
    out = tmp_path / "fit"
    given = ["--data", str(files[0]), "--items", str(files[1]), "--user", "customer", "--out", str(out)]
    main(["fit", *given, "--config", str(tmp_path / "small.yaml"), "--epochs", "1"])
    assert Recipe().changed_by_file(out / "recipe.yaml") == SMALL.change(pretrain={"epochs": 1})
    capsys.readouterr()
    main(["info", str(out / "recommender")])
    shown = capsys.readouterr().out
    assert re.search(r"^dataset +clicks$", shown, re.M)
    assert re.search(r"^metrics +recall@5 ", shown, re.M)
    (tmp_path / "wrong.yaml").write_text("pretrain: {sise: tiny}")
    with pytest.raises(SystemExit, match="2"):
        main(["fit", *given, "--config", str(tmp_path / "wrong.yaml")])
    assert "there is no setting pretrain.sise; known here: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "dies_in",
    [
        (Tokenizer, "save_pretrained"),
        (PretrainStage, "loss"),
        (AlignStage, "loss"),
        (recipes, "evaluate"),
    ],
    ids=lambda place: f"{place[0].__name__.rpartition('.')[2]}.{place[1]}",
)
def test_a_killed_fit_goes_on_to_the_same_bits(
    files: tuple[Path, Path], fitted: tuple[Path, Recommender], dies_in: tuple[Any, str], tmp_path: Path
) -> None:
    home, name = dies_in
    original: Callable[..., Any] = getattr(home, name)
    calls = 0

    def dies(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (2 if name == "loss" else 1):
            raise Killed
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, name, dies)
        with pytest.raises(Killed):
            fit(files, tmp_path / "shop", aligned=True)
    assert same_bits(fit(files, tmp_path / "shop", aligned=True), fitted[1])
    kept = (tmp_path / "shop" / "metrics.json").read_text(), (fitted[0] / "metrics.json").read_text()
    assert len({json.dumps([row["metrics"] for row in json.loads(text)["rows"]]) for text in kept}) == 1


def test_finished_tokens_are_loaded_and_damaged_ones_fitted_again(
    fitted: tuple[Path, Recommender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.load(fitted[0] / "data")
    first = fit_tokenizer(data, SMALL.tokenizer, Run(tmp_path, progress=False))
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerStage, "loss", None)
        patch.setattr(Tokenizer, "save_pretrained", None)
        again = fit_tokenizer(data, SMALL.tokenizer, Run(tmp_path, progress=False))
    assert torch.equal(again.codes_IM, first.codes_IM)
    assert again.health == first.health
    (tmp_path / "tokenizer" / "tokens.safetensors").write_bytes(b"cut")
    whole = fit_tokenizer(data, SMALL.tokenizer, Run(tmp_path, progress=False))
    assert torch.equal(whole.codes_IM, first.codes_IM)
    assert torch.equal(Tokenizer.from_pretrained(tmp_path / "tokenizer").codes_IM, first.codes_IM)


def test_a_folder_of_another_fit_is_refused_and_stays(
    files: tuple[Path, Path], fitted: tuple[Path, Recommender]
) -> None:
    out, _ = fitted
    before = (out / "fit.json").read_bytes(), (out / "metrics.json").read_bytes()
    with pytest.raises(InputError, match=r"holds a fit with other aligned, seed; choose another folder"):
        fit(files, out, seed=1)
    with pytest.raises(InputError, match=r"holds a fit with other pretrain\.dropout"):
        fit(files, out, aligned=True, recipe=SMALL.change(pretrain={"dropout": 0.0}))
    with pytest.raises(InputError, match="holds a fit with other dataset"):
        fit(files, out, aligned=True, reading={"user": "customer", "time": None})
    assert before == ((out / "fit.json").read_bytes(), (out / "metrics.json").read_bytes())


def test_a_folder_of_something_else_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.csv").touch()
    with pytest.raises(InputError, match=r"holds other files \("):
        fit(files, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_fit_started_over_leaves_nothing_of_the_old_one_and_can_be_killed(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = SMALL.change(pretrain={"epochs": 1})
    fit(files, tmp_path / "shop", recipe=short)
    (tmp_path / "shop" / "model" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerStage, "loss", None)
        with pytest.raises(TypeError):
            fit(files, tmp_path / "shop", recipe=short, seed=5, resume=False)
    assert not (tmp_path / "shop" / "model" / "recommender").exists()
    synthetic_shop(num_users=20, num_items=60, num_facets=3, seed=1).save(tmp_path / "shop" / "data")
    fresh = fit(files, tmp_path / "shop", recipe=short, seed=5)
    saved = Dataset.load(tmp_path / "shop" / "data").card["fingerprint"]
    assert saved == json.loads((tmp_path / "shop" / "fit.json").read_text())["dataset"]
    assert (tmp_path / "shop" / "model" / "notes.txt").read_text() == "mine"
    assert same_bits(fresh, fit(files, None, recipe=short, seed=5))
    assert json.loads((tmp_path / "shop" / "fit.json").read_text())["seed"] == 5


def test_a_recipe_is_applied_whole(fitted: tuple[Path, Recommender]) -> None:
    out, recommender = fitted
    data, paper = Dataset.load(out / "data"), RECIPES["paper"]
    refused = "tokens are of the recipe 'default', these settings of 'paper', and all stages need the same recipe"
    with pytest.raises(InputError, match=refused):
        fit_recommender(data, recommender.tokenizer, paper.pretrain)
    with pytest.raises(InputError, match=refused):
        align(recommender, data, paper.align)
    with pytest.raises(InputError, match=refused):
        Recipe(SMALL.tokenizer, paper.pretrain)
    with pytest.raises(InputError, match="recipe is 'papr'; it must be one of default, paper"):
        recipe_named("papr")


def test_the_default_is_what_every_stage_has_by_default() -> None:
    assert RECIPES["default"] == Recipe()
    assert {stage.recipe for stage in (RECIPES["paper"].tokenizer, RECIPES["paper"].pretrain)} == {"paper"}


def test_a_named_recipe_gets_codebooks_that_fit_the_catalog() -> None:
    assert recipe_named("paper").sized_for(800).tokenizer.codebook_size == 64
    assert recipe_named("default").sized_for(10**6) == RECIPES["default"]


def test_inputs_that_contradict_each_other_are_named(
    files: tuple[Path, Path], fitted: tuple[Path, Recommender]
) -> None:
    data = Dataset.load(fitted[0] / "data")
    with pytest.raises(InputError, match="data is a dataset"):
        reg4rec.fit(data, items=files[1])
    with pytest.raises(InputError, match="belong to a file of interactions"):
        reg4rec.fit(fitted[0] / "data", reading={"user": "customer"})
    with pytest.raises(InputError, match="there is no dataset or folder 'nowhere'"):
        reg4rec.fit("nowhere")
    with pytest.raises(InputError, match="PretrainConfig has no setting wings"):
        SMALL.change(pretrain={"wings": 2})


def test_settings_go_out_and_come_back_as_a_file(tmp_path: Path) -> None:
    for recipe in RECIPES.values():
        recipe.save(tmp_path / "recipe.yaml")
        assert RECIPES["default"].changed_by_file(tmp_path / "recipe.yaml") == recipe


def test_a_file_may_name_a_few_settings(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("pretrain:\n  size: tiny\n  loop: {learning_rate: 1e-3, epochs: 3}\n")
    recipe = RECIPES["default"].changed_by_file(tmp_path / "few.yaml")
    assert recipe == RECIPES["default"].change(pretrain={"size": "tiny", "learning_rate": 1e-3, "epochs": 3})
    (tmp_path / "few.json").write_text('{"tokenizer": {"views": {"text_columns": ["title"]}}}')
    recipe = RECIPES["default"].changed_by_file(tmp_path / "few.json")
    assert recipe.tokenizer.views.text_columns == ("title",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pretrian: {}", "no setting pretrian; known here: tokenizer, pretrain, align"),
        ("pretrain: {loop: {epoch: 3}}", r"no setting pretrain\.loop\.epoch; known"),
        ("pretrain: {loop: {epochs: many}}", r"pretrain\.loop\.epochs is 'many'; it must be a whole number"),
        ("pretrain: {loop: {epochs: 2.5}}", "it must be a whole number"),
        ("pretrain: {loop: {learning_rate: [1]}}", "it must be a finite number"),
        ("pretrain: {loop: {learning_rate: .inf}}", "it must be a finite number"),
        ("tokenizer: {orthogonality: bogus}", "it must be one of weight, latent, codeword, decorrelation"),
        ("pretrain: {size: 3}", "it must be one of tiny, small, base, large"),
        ("pretrain: {size: vast}", "size"),
        ("pretrain: 3", "must be a mapping of settings, found 3"),
        ("- 1", "must be a mapping of settings, found list"),
        ("a: [", "cannot be read as YAML or JSON"),
        ("pretrain: {recipe: paper}", "recipe"),
    ],
)
def test_a_file_that_cannot_be_settings_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        RECIPES["default"].changed_by_file(tmp_path / "wrong.yaml")
