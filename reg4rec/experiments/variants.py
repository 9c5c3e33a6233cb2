"""Studies that fit one recipe with changes and compare the fits."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reg4rec import loop
from reg4rec.alignment.stage import AlignStage
from reg4rec.checkpoints import training_seconds
from reg4rec.data import Dataset, ItemCatalog
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.evaluation import evaluate
from reg4rec.experiments.compare import versions
from reg4rec.experiments.finding import check_study_folder
from reg4rec.experiments.questions import QUESTIONS, Variant
from reg4rec.experiments.variant_finding import Measured, VariantFindings, compared
from reg4rec.recipes import Recipe, recipe_named
from reg4rec.recommend import Recommender
from reg4rec.run import SharedRun
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.storage import new_header, read_header, read_tensors, to_json, write_header, write_tensors

__all__ = ["VariantConfig", "recipe_of_studies", "study_variants"]

FORMAT, VERSION = "reg4rec-variant", 2
CUTS = (5, 10, 50)


def recipe_of_studies(name: str) -> Recipe:
    """The recipe of that name, with alignments of an epoch."""
    return recipe_named(name).change(align={"epochs": 1, "patience": 0})


@dataclass(frozen=True)
class VariantConfig:
    """What all rows of a study share."""

    rows: tuple[str, ...] = ()
    """rows to fit now, by name; the table shows those fitted before too. None of them: all"""
    seeds: tuple[int, ...] = (0,)
    """every row is fitted once a seed, tokens included"""
    max_users: int | None = None
    """measure on a random sample of this many validation users, the same for all seeds; None for all users"""
    recipe: Recipe = field(default_factory=lambda: recipe_of_studies("default"))
    """alignment of the rows that are aligned included"""

    def __post_init__(self) -> None:
        distinct = len(set(self.seeds)) == len(self.seeds) and all(seed in SEEDS for seed in self.seeds)
        check_settings(
            self,
            ("seeds", bool(self.seeds) and distinct, f"distinct numbers {SEED_RANGE}"),
            ("max_users", self.max_users is None or self.max_users >= 1, "1 or more, or None"),
        )


def study_variants(
    name: str,
    data: Dataset,
    config: VariantConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> VariantFindings:
    """Fit and measure the rows of a question of `QUESTIONS`; writes `NAME.md`, `NAME.json` and `NAME.png`.

    Quality is that of `evaluate` on validation users, protocol `standard`; test is not read. Fits are saved in
    `out/fits`, so that studies in one folder share them. A killed study continues: what is finished is not fitted or
    measured again. The table is written after every row. A row whose settings do not fit this dataset, or whose tokens
    collapse, becomes a note.
    `overrides` replace fields of `config`. InputError for an unknown question or row.
    """
    config, out = override(config or VariantConfig(), overrides), Path(out)
    check_study_folder(out)
    if name not in QUESTIONS:
        raise InputError(f"there is no study {name!r} of variants; the studies are {', '.join(QUESTIONS)}")
    question = QUESTIONS[name]
    known = [variant.name for variant in question.variants]
    if unknown := [row for row in config.rows if row not in known]:
        raise InputError(f"rows holds {unknown[0]!r}; the rows of {name} are {'; '.join(known)}")
    notes: list[str] = []
    for variant in question.variants:
        if config.rows and variant.name not in config.rows:
            continue
        try:
            for job in _jobs(variant, data, config, out, device):
                job.measure()
        except (InputError, TokenizerCollapseError) as error:
            notes.append(f"{variant.name}: {error}")
        findings = _findings(name, data, config, out, device, [*notes])
        if findings.rows:
            findings.save(out)
    if not findings.rows:
        raise InputError(f"no row of {name} can be fitted on {data.name}: {'; '.join(notes)}")
    return findings


def _jobs(variant: Variant, data: Dataset, config: VariantConfig, out: Path, device: str) -> "list[_Job]":
    """A row's jobs, one a seed."""
    return [_Job(data, variant, config, out / "fits", seed, device) for seed in config.seeds]


def _findings(
    name: str, data: Dataset, config: VariantConfig, out: Path, device: str, notes: list[str]
) -> VariantFindings:
    """What has been measured so far."""
    question = QUESTIONS[name]
    rows: dict[str, dict[int, Measured]] = {}
    for variant in question.variants:
        jobs = _jobs(variant, data, config, out, device)
        if measured := {job.seed: job.read() for job in jobs if job.path.exists()}:
            rows[variant.name] = measured
    settings = {key: value for key, value in asdict(config).items() if key != "rows"}
    changes = {variant.name: _changes(variant) for variant in question.variants}
    return VariantFindings(
        data.name, name, question.title, compared(rows), question.shown, settings, changes, versions(device), notes
    )


def _changes(variant: Variant) -> dict[str, Any]:
    """What a variant changes, by stage."""
    changes = {name: value for name, value in vars(variant).items() if name != "name"}
    return {name: value for name, value in changes.items() if value or (name == "align" and value is not None)}


@dataclass(frozen=True)
class _Job:
    """One row with one seed: its fits, each in a folder named after what decides it, and what was measured."""

    data: Dataset
    variant: Variant
    config: VariantConfig
    fits: Path
    seed: int
    device: str

    @cached_property
    def recipe(self) -> Recipe:
        """The study's recipe with the changes of this row."""
        return self.config.recipe.change(self.variant.tokenizer, self.variant.pretrain, self.variant.align)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the stages, those before included, as JSON has it."""
        recipe, variant = self.recipe, self.variant
        stages: dict[str, Any] = {"dataset": self.data.card["fingerprint"]}
        stages["tokenizer"] = asdict(recipe.tokenizer) | {"seed": self.seed}
        stages["model"] = asdict(recipe.pretrain) | {"seed": self.seed, "mislabeled": variant.mislabeled}
        if variant.align is not None:
            stages["aligned"] = asdict(recipe.align)
        stages["measured"] = {"search": dict(variant.search), "max_users": self.config.max_users}
        return json.loads(to_json(stages))

    @cached_property
    def fitting(self) -> SharedRun:
        return SharedRun(self.fits, self.seed, self.device, decided_by=self.settings)

    @property
    def path(self) -> Path:
        return self.fitting.folder_of("measured") / "measured.json"

    def measure(self) -> None:
        """Fit what is not fitted yet and measure it, unless that was done before."""
        if self.path.exists():
            return
        recommender = self._fitted()
        (row,) = evaluate(recommender, self.data, "validation", "standard", CUTS, self.config.max_users).rows
        health = recommender.tokenizer.health
        write_tensors(self.path.with_name("ranks.safetensors"), {"rank_B": torch.from_numpy(row.ranks_B)})
        facts = {
            **row.metrics,
            **row.extra,
            "users_per_second": row.users_per_second,
            "parameters": sum(p.numel() for p in recommender.model.parameters()),
            "train_seconds": self._seconds(),
            "collisions": health.collision_rate_nearest,
            "similarity": health.max_similarity,
            "decoded": recommender.config.num_steps or recommender.model.config.num_codebooks,
        }
        header = new_header(FORMAT, VERSION, **self.settings, facts=facts)
        write_header(self.path, header, ["ranks.safetensors"])

    def read(self) -> Measured:
        """What `measure` found."""
        facts = read_header(self.path, FORMAT, VERSION)["facts"]
        return Measured(facts, read_tensors(self.path.with_name("ranks.safetensors"))["rank_B"].numpy())

    def _seconds(self) -> float:
        """Time in training loops, validation included, of all stages."""
        runs = [self.fitting.folder_of(stage) for stage in self.settings if stage in ("tokenizer", "model", "aligned")]
        return training_seconds(runs)

    def _fitted(self) -> Recommender:
        """The row's recommender; stages that are finished are read."""
        taught = _mislabeled(self.data, self.variant.mislabeled, self.seed)
        recommender = self.recipe.fit(taught, self.fitting)
        if self.variant.align is not None:
            # weights as the best epoch left them, better or worse than before, under the search chosen before
            stage = AlignStage(recommender, taught, self.recipe.align, self.seed)
            loop.train(stage, self.recipe.align.loop, self.fitting.stage("aligned"))
            recommender = recommender.with_model(stage.policy)
        # the questions are of tokens and paths
        return recommender.with_search(retriever="paths", **self.variant.search)


@dataclass(frozen=True, eq=False)
class _Mislabeled(ItemCatalog):
    """A catalog in which a random part of the items with a category have that of another item; names stay in order."""

    part: float
    seed: int

    @cached_property
    def categories_I(self) -> npt.NDArray[np.int32]:  # noqa: N802
        category_I, draw = ItemCatalog(self.table, self.category_level).categories_I, np.random.default_rng(self.seed)
        known = np.flatnonzero(category_I >= 0)
        chosen = draw.choice(known, round(self.part * len(known)), replace=False)
        category_I[chosen] = category_I[draw.permutation(chosen)]
        return category_I


def _mislabeled(data: Dataset, part: float, seed: int) -> Dataset:
    return replace(data, items=_Mislabeled(data.items.table, data.items.category_level, part, seed)) if part else data
