"""The study of CORP: the figures of an evaluation, nothing measured twice, other settings refused."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.experiments import CorpConfig, Finding, corp
from reg4rec.experiments.corp import rows_decoded
from reg4rec.model import ModelConfig, Reg4RecModel, search_step
from reg4rec.recommend import Recommender
from reg4rec.storage import read_json, write_header
from reg4rec.tokenizer import Tokenizer

CONFIG = CorpConfig(thetas=(0.02, 0.1), max_users=60, timed_users=20, repeats=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corp")


@pytest.fixture(scope="module")
def findings(recommender: Recommender, shop: SyntheticShop, folder: Path) -> Finding[Any]:
    return corp(recommender, shop, CONFIG, out=folder)


def test_every_setting_has_the_figures_of_an_evaluation(
    findings: Finding[Any], recommender: Recommender, shop: SyntheticShop, folder: Path
) -> None:
    assert [row.setting for row in findings.rows] == ["off", "0.02", "0.1"]
    for row in findings.rows:
        chosen = recommender.with_search(prune_threshold=row.theta)
        for split in ("validation", "test"):
            (expected,) = evaluate(chosen, shop, split, "standard", (10,), 60, 0).rows
            assert row.measured[split] == {"users": 60, **expected.metrics, **expected.extra}
        assert row.ms_per_user > 0
    off, strict, loose = findings.rows
    assert off.times_off == 1
    assert off.measured["test"]["paths_pruned"] == 0
    assert strict.measured["test"]["paths_pruned"] > loose.measured["test"]["paths_pruned"] > 0
    assert all(row.checking is not None and 0 < row.checking < 1 for row in (strict, loose))
    assert (folder / "corp.md").read_text() == findings.markdown()
    assert (folder / "corp.png").stat().st_size > 0
    stored = json.loads((folder / "corp.json").read_text())
    assert (stored["settings"]["study"]["repeats"], stored["versions"]["torch"]) == (2, torch.__version__)


@pytest.mark.parametrize("threshold", [None, 0.05])
@pytest.mark.parametrize("num_steps", [None, 2, 9])
def test_rows_decoded_are_those_of_a_search(
    recommender: Recommender,
    shop: SyntheticShop,
    monkeypatch: pytest.MonkeyPatch,
    threshold: float | None,
    num_steps: int,
) -> None:
    chosen = recommender.with_search(prune_threshold=threshold, num_steps=num_steps)
    rows = []

    def counted(model: Any, memory: Any, token_BP: Any, *rest: Any, **more: Any) -> Any:
        rows.append(1 if token_BP is None else token_BP.shape[1])
        return search_step(model, memory, token_BP, *rest, **more)

    monkeypatch.setattr("reg4rec.search.beam.search_step", counted)
    for k in (10, 30):
        rows.clear()
        list(chosen.search(shop.part("train").take([0, 1]), k, False))
        assert sum(rows) == rows_decoded(chosen.config, chosen.model.config.num_codebooks)


def test_what_is_finished_is_not_measured_again(
    findings: Finding[Any],
    recommender: Recommender,
    shop: SyntheticShop,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (path,) = folder.glob("results/corp-*/result.json")
    measured = read_json(path)
    lost = measured.pop("test 0.1")
    write_header(path, measured)
    splits = []

    def counted(*arguments: Any) -> Any:
        splits.append(arguments[2])
        return evaluate(*arguments)

    monkeypatch.setattr(importlib.import_module("reg4rec.experiments.corp"), "evaluate", counted)
    again = corp(recommender, shop, CONFIG, out=folder)
    assert splits == ["test"]
    assert read_json(path)["test 0.1"] == lost
    assert again.rows == findings.rows


def test_other_settings_are_measured_beside(
    findings: Finding[Any], recommender: Recommender, shop: SyntheticShop, folder: Path
) -> None:
    other = corp(recommender.with_search(num_beams=10), shop, CONFIG, out=folder)
    assert other.rows[0].measured != findings.rows[0].measured
    assert corp(recommender, shop, CONFIG, out=folder).rows == findings.rows


def test_a_model_without_categories_is_refused(
    recommender: Recommender, shop: SyntheticShop, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = Reg4RecModel(ModelConfig(3, 16, 0, dim=16, num_heads=2, ffn_dim=16, num_blocks=1))
    with pytest.raises(InputError, match="predicts no categories"):
        corp(Recommender(model, tokenizer, shop.items, device="cpu"), shop, CONFIG, out=tmp_path)


def test_paths_are_measured_though_the_recommender_ranks_without(
    exact: Recommender, shop: SyntheticShop, tmp_path: Path
) -> None:
    found = corp(exact, shop, CONFIG, out=tmp_path, thetas=(0.05,), num_steps=2, repeats=1, clock="processor")
    assert (found.settings["search"]["num_steps"], found.settings["search"]["retriever"]) == (2, "paths")
    assert found.rows[1].measured["test"]["paths_pruned"] > 0
