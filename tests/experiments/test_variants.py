"""Studies of variants: the figures of an evaluation, fits shared and never repeated, differences with errors."""

import contextlib
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from reg4rec.alignment import AlignConfig
from reg4rec.cli import main
from reg4rec.data import ViewConfig, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.experiments import QUESTIONS, Finding, VariantConfig, study_variants
from reg4rec.experiments.questions import AS_IT_IS
from reg4rec.experiments.variants import Measured, Row, compared, mislabeled
from reg4rec.loop import LoopConfig
from reg4rec.recipes import Recipe
from reg4rec.recommend import Recommender
from reg4rec.settings import override
from reg4rec.tokenizer import Floors, TokenizerConfig
from reg4rec.train import PretrainConfig

VIEWS = ViewConfig(text_dim=24, collaborative_dim=8)
TOKENS = TokenizerConfig(
    num_codebooks=4, codebook_size=16, codeword_dim=8, hidden_dim=32, epochs=3, autoencoder_epochs=1, views=VIEWS
)
LOOP = LoopConfig(epochs=2, learning_rate=4e-3, log_every=1000)
PRETRAIN = PretrainConfig(size="tiny", max_history=20, num_beams=12, validation_users=60, loop=LOOP)
ALIGN = AlignConfig(validation_users=60, batch_users=256, loop=LoopConfig(epochs=1, learning_rate=5e-5))
CONFIG = VariantConfig(max_users=200, recipe=Recipe(TOKENS, PRETRAIN, ALIGN))
REWARD_ROWS = ("not aligned", "step hit alone", "all")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def rewards(shop: SyntheticShop, out: Path) -> Finding[Row]:
    return study_variants("rewards", shop, CONFIG, out=out, rows=REWARD_ROWS)


def fact(row: Row, name: str) -> float:
    (value,) = row.facts[name]
    assert value is not None
    return value


def fits(out: Path, stage: str) -> list[Path]:
    return sorted((out / "fits").glob(f"{stage}-*"))


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_row_is_another_setting_that_exists(name: str) -> None:
    question, seen = QUESTIONS[name], set()
    for variant in question.variants:
        tokens = override(TokenizerConfig(), dict(variant.tokenizer))
        pretrain = override(PretrainConfig(), dict(variant.pretrain))
        align = None if variant.align is None else asdict(override(AlignConfig(), dict(variant.align)))
        settings = [asdict(tokens), asdict(pretrain), align, dict(variant.search), variant.mislabeled]
        seen.add(json.dumps(settings, sort_keys=True))
    assert len(seen) == len(question.variants) == len({variant.name for variant in question.variants})


def test_a_row_has_the_figures_of_an_evaluation(rewards: Finding[Row], shop: SyntheticShop, out: Path) -> None:
    assert tuple(row.name for row in rewards.rows) == REWARD_ROWS
    (model,) = fits(out, "model")
    recommender = Recommender.from_pretrained(model / "recommender").with_search(retriever="paths")
    (expected,) = evaluate(recommender, shop, "validation", "standard", (5, 10, 50), 200, 0).rows
    first, *aligned = rewards.rows
    assert {name: first.facts[name] for name in expected.metrics} == {n: [v] for n, v in expected.metrics.items()}
    assert (first.seeds, first.change, first.change_error) == ([0], None, None)
    for row in aligned:  # an alignment changes the weights, and so what every user is shown
        assert row.change is not None
        assert row.change == pytest.approx(fact(row, "recall@10") / expected.metrics["recall@10"] - 1, abs=1e-9)
        assert fact(row, "train_seconds") > fact(first, "train_seconds")
    assert (len(fits(out, "tokenizer")), len(fits(out, "aligned"))) == (1, 2)


def test_table_json_and_picture_are_written(rewards: Finding[Row], out: Path) -> None:
    assert (out / "rewards.md").read_text() == rewards.markdown()
    assert "| step hit alone " in rewards.markdown()
    stored = json.loads((out / "rewards.json").read_text())
    assert stored["changes"]["step hit alone"]["align"]["step_hit"] == 1.0
    assert stored["settings"]["recipe"]["pretrain"]["size"] == "tiny"
    assert (out / "rewards.png").stat().st_size > 10_000


def test_nothing_is_fitted_or_measured_twice(rewards: Finding[Row], shop: SyntheticShop, out: Path) -> None:
    there = [path for part in ("fits", "results") for path in (out / part).rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in there}
    again = study_variants("rewards", shop, CONFIG, out=out, rows=REWARD_ROWS)
    assert again.rows == rewards.rows
    assert {path: path.stat().st_mtime_ns for path in there} == before


def test_studies_share_their_fits_and_a_row_can_come_later(
    rewards: Finding[Row], shop: SyntheticShop, out: Path
) -> None:
    models = len(fits(out, "model"))
    found = study_variants("sizes", shop, CONFIG, out=out, rows=(AS_IT_IS, "100 beams"))
    assert len(fits(out, "model")) == models
    there = [AS_IT_IS, "tiny", "100 beams"]  # tiny is what all rows are here
    assert [row.name for row in found.rows] == there
    found = study_variants("sizes", shop, CONFIG, out=out, rows=("M 2",))
    assert [row.name for row in found.rows] == [*there, "M 2"]
    assert len(fits(out, "model")) == models + 1


def test_a_row_that_the_data_cannot_have_is_a_note(rewards: Finding[Row], shop: SyntheticShop, out: Path) -> None:
    rows = (AS_IT_IS, "K 1024")
    found = study_variants("tokenizers", shop, CONFIG, out=out, rows=rows)
    assert (found.rows[0].name, "K 1024" in [row.name for row in found.rows]) == (AS_IT_IS, False)
    assert "K 1024: codebook_size is 1024 for 60 items" in found.markdown()
    with pytest.raises(InputError, match=r"no row of tokenizers can be fitted .*codebook_size is 1024"):
        study_variants("tokenizers", shop, CONFIG, out=out / "alone", rows=rows[1:])


def test_a_row_whose_tokens_collapse_is_named_with_the_reason(shop: SyntheticShop, tmp_path: Path) -> None:
    strict = override(TOKENS, {"kind": "mpq", "floors": Floors(max_similarity=-1.0)})
    with pytest.raises(InputError, match=r"M 2: the tokenizer collapsed in epoch \d: two codebooks are copies"):
        study_variants("sizes", shop, CONFIG, out=tmp_path, rows=("M 2",), recipe=Recipe(strict, PRETRAIN))


def test_a_change_and_its_error_are_those_of_the_same_users() -> None:
    base = np.array([0, 3, 50, 12, 9, 50, 50, 50])
    own = np.array([1, 11, 50, 2, 0, 4, 50, 50])
    rows = {"first": {0: Measured({"recall@10": 3 / 8}, base)}, "second": {0: Measured({"recall@10": 0.5}, own)}}
    first, second = compared(rows)
    difference = [0, -1, 0, 1, 0, 1, 0, 0]
    error = math.sqrt(sum((d - 1 / 8) ** 2 for d in difference)) / 8
    assert first.change is None
    assert (second.change, second.change_error) == pytest.approx((1 / 3, error / (3 / 8)))
    again = {name: {0: measured[0], 1: measured[0]} for name, measured in rows.items()}
    assert compared(again)[1].change_error == second.change_error  # the same users once more are no further users
    nothing = {"first": {0: Measured({}, base + 50)}, "second": {0: Measured({}, own)}}
    assert compared(nothing)[1].change is None


def test_wrong_labels_are_those_of_other_items_and_training_alone_sees_them(shop: SyntheticShop) -> None:
    true, wrong = shop.items.categories_I, mislabeled(shop, 0.5, seed=1).items.categories_I
    assert 0.2 < (true != wrong).mean() <= 0.5
    assert sorted(true) == sorted(wrong)
    assert (mislabeled(shop, 0.5, seed=1).items.categories_I == wrong).all()
    assert mislabeled(shop, 0.0, seed=1) is shop
    assert mislabeled(shop, 0.5, seed=1).items.category_names == shop.items.category_names


def test_wrong_labels_cost_the_category_predictor_its_accuracy(shop: SyntheticShop, out: Path) -> None:
    rows = ("true labels, CORP 0.06", "90 % wrong labels, CORP 0.06")
    longer = override(CONFIG, {"recipe": Recipe(TOKENS, override(PRETRAIN, {"epochs": 3, "decoded_fraction": 1.0}))})
    found = study_variants("categories", shop, longer, out=out / "labels", rows=rows)
    right, wrong = (fact(row, "category_accuracy") for row in found.rows)
    assert right > wrong


def test_what_does_not_exist_is_named(shop: SyntheticShop, out: Path) -> None:
    with pytest.raises(InputError, match="there is no study 'nothing' of variants; the studies are tokenizers, "):
        study_variants("nothing", shop, CONFIG, out=out)
    with pytest.raises(InputError, match="rows holds 'all of it'; the rows of rewards are not aligned; "):
        study_variants("rewards", shop, CONFIG, out=out, rows=("all", "all of it"))


def test_the_command_shows_the_table(tmp_path: Path) -> None:
    synthetic_shop(num_users=200, num_items=60, num_facets=3).save(tmp_path / "data")
    flags = "--recipe.tokenizer.num-codebooks 2 --recipe.tokenizer.codebook-size 8 --recipe.tokenizer.epochs 2 "
    flags += "--recipe.tokenizer.autoencoder-epochs 1 --recipe.pretrain.size tiny --recipe.pretrain.loop.epochs 1 "
    flags += f"--max-users 50 --data {tmp_path / 'data'} --out {tmp_path / 'out'}"
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()):
        main(["study", "layouts", "--rows", "pooled", "flat", *flags.split()])
    assert (tmp_path / "out" / "layouts.md").read_text() in shown.getvalue()
    assert "| flat " in shown.getvalue()
