"""Studies that fit one recipe with changes and compare the fits."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reg4rec import loop
from reg4rec.alignment.stage import AlignStage
from reg4rec.checkpoints import training_seconds
from reg4rec.data import Dataset, ItemCatalog
from reg4rec.errors import InputError, TokenizerCollapseError
from reg4rec.evaluation import evaluate
from reg4rec.experiments.finding import Columns, Finding, Picture, Spread, Table, check_study_folder, versions
from reg4rec.experiments.job import Job, plain
from reg4rec.experiments.questions import QUESTIONS, Variant
from reg4rec.recipes import Recipe, recipe_named
from reg4rec.recommend import Recommender
from reg4rec.run import SharedRun
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.statistics import error_of_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Measured", "Row", "VariantConfig", "compared", "mislabeled", "recipe_of_studies", "study_variants"]

CUTS = (5, 10, 50)
METRICS = {"recall@5": "Recall@5", "recall@10": "Recall@10", "ndcg@10": "NDCG@10", "recall@50": "Recall@50"}
FORMS = {
    "collisions": ".1%",
    "category_accuracy": ".1%",
    "similarity": ".2f",
    "path_recall": ".4f",
    "paths_pruned": ".1f",
    "decoded": ".3g",
    "parameters": ",.0f",
    "train_seconds": ",.0f",
    "users_per_second": ",.0f",
}
"""How the further values of a row are written."""


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


class Measured(NamedTuple):
    """One row with one seed: its values by name, and the 0-based rank of every user's target."""

    facts: dict[str, float | None]
    rank_B: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One variant; lists hold a value a seed.

    `change` is the relative change of Recall@10 against the first row on the same users and seeds, and
    `change_error` its standard error over the users; None for the first row, and where that was not measured.
    """

    name: str
    seeds: list[int]
    facts: dict[str, list[float | None]]
    change: float | None
    change_error: float | None


def study_variants(
    name: str,
    data: Dataset,
    config: VariantConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> Finding[Row]:
    """Fit and measure the rows of a question of `QUESTIONS`; writes `NAME.md`, `NAME.json` and `NAME.png`.

    Quality is that of `evaluate` on validation users, protocol `standard`; test is not read. Fits and what was measured
    of them are saved in `out/fits` and `out/results`, so that studies in one folder share them. A killed study
    continues: what is finished is not fitted or measured again. The table is written after every row. A row whose
    settings do not fit this dataset, or whose tokens collapse, becomes a note.
    `overrides` replace fields of `config`. InputError for an unknown question or row.
    """
    config, out = override(config or VariantConfig(), overrides), Path(out)
    check_study_folder(out)
    if name not in QUESTIONS:
        raise InputError(f"there is no study {name!r} of variants; the studies are {', '.join(QUESTIONS)}")
    fits = {
        v.name: [_Fit(data, v, config, out, seed, device) for seed in config.seeds] for v in QUESTIONS[name].variants
    }
    if unknown := [row for row in config.rows if row not in fits]:
        raise InputError(f"rows holds {unknown[0]!r}; the rows of {name} are {'; '.join(fits)}")
    notes: list[str] = []
    for row in config.rows or fits:
        try:
            for fit in fits[row]:
                fit.measured()
        except (InputError, TokenizerCollapseError) as error:
            notes.append(f"{row}: {error}")
        known = {other: {fit.seed: fit.measured() for fit in of if fit.path.exists()} for other, of in fits.items()}
        if rows := compared({other: measured for other, measured in known.items() if measured}):
            found = _finding(name, data.name, rows, config, versions(device), [*notes]).save(out)
    if not rows:
        raise InputError(f"no row of {name} can be fitted on {data.name}: {'; '.join(notes)}")
    return found


def compared(rows: Mapping[str, Mapping[int, Measured]]) -> list[Row]:
    """Rows by name from what was measured with each seed; the first of them is what the others are compared with."""
    made: list[Row] = []
    for name, measured in rows.items():
        first_name, first = next(iter(rows.items()))
        facts = {fact: [m.facts[fact] for m in measured.values()] for fact in next(iter(measured.values())).facts}
        seeds = [] if name == first_name else sorted(measured.keys() & first.keys())
        change = _change([measured[s].rank_B for s in seeds], [first[s].rank_B for s in seeds]) if seeds else None
        made.append(Row(name, list(measured), facts, *(change or (None, None))))
    return made


def _change(own: Sequence[npt.NDArray[np.int64]], base: Sequence[npt.NDArray[np.int64]]) -> tuple[float, float] | None:
    """Relative change of Recall@10 from `base` to `own`, ranks (B,) of the same users a seed, and its standard error.

    A user counts once, by the mean over the seeds.
    """
    hit_B, base_B = ((np.stack(ranks) < 10).mean(0) for ranks in (own, base))
    if not base_B.any():
        return None
    change, level = hit_B - base_B, base_B.mean()
    return float(change.mean() / level), float(error_of_mean(change) / level)


def _finding(
    name: str, dataset: str, rows: list[Row], config: VariantConfig, measured_with: dict[str, Any], notes: list[str]
) -> Finding[Row]:
    question = QUESTIONS[name]
    columns: Columns = {
        "": "{row.name}",
        **{title: partial(_spread, metric) for metric, title in METRICS.items()},
        "change of Recall@10": lambda row: "" if row.change is None else f"{row.change:+.1%} ± {row.change_error:.1%}",
        **{fact.replace("_", " "): partial(_written, fact) for fact in question.shown},
    }
    return Finding(
        name,
        ("reg4rec-study", 2),
        dataset,
        question.title,
        rows,
        [Table(rows, columns)],
        f"Validation, {'all' if config.max_users is None else f'{config.max_users:,}'} users, protocol standard, seeds "
        f"{', '.join(map(str, config.seeds))}. Change: against the first row, with its standard error over the users.",
        {key: value for key, value in plain(config).items() if key != "rows"},
        measured_with,
        {
            "study": name,
            "question": question.title,
            "shown": question.shown,
            "changes": {variant.name: variant.changes for variant in question.variants},
        },
        notes,
        Picture(10, 1.3 + 0.3 * len(rows), partial(_draw, rows=rows)),
    )


def _spread(fact: str, row: Row) -> str:
    return str(Spread.of(_known(row, fact)))


def _written(fact: str, row: Row) -> str:
    values = _known(row, fact)
    return f"{statistics.fmean(values):{FORMS[fact]}}" if values else ""


def _known(row: Row, fact: str) -> list[float]:
    return [value for value in row.facts.get(fact, []) if value is not None]


def _draw(figure: "Figure", rows: list[Row]) -> None:
    places = list(range(len(rows)))[::-1]
    changed, level = figure.subplots(1, 2, sharey=True)
    changes = [100 * (row.change or 0.0) for row in rows]
    errors = [100 * (row.change_error or 0.0) for row in rows]
    changed.errorbar(changes, places, xerr=errors, fmt="o", capsize=3, color="C0")
    changed.axvline(0, color="0.6", linestyle=":", linewidth=1)
    changed.set_title("change of Recall@10, % (standard error over users)")
    spreads = [Spread.of(_known(row, "ndcg@10")) for row in rows]
    level.errorbar([s.mean for s in spreads], places, xerr=[s.std or 0.0 for s in spreads], fmt="o", capsize=3)
    level.set_title("NDCG@10")
    for panel in (changed, level):
        panel.locator_params(axis="x", nbins=6)
        panel.set_yticks(places, [row.name for row in rows], fontsize=8)
        panel.grid(axis="y", linewidth=0.3)


class _Fit(Job):
    """One row with one seed: its fits, each in a folder named after what decides it, and what was measured."""

    def __init__(self, data: Dataset, variant: Variant, config: VariantConfig, out: Path, seed: int, device: str):
        self.data, self.variant, self.config, self.seed = data, variant, config, seed
        self.recipe = config.recipe.change(variant.tokenizer, variant.pretrain, variant.align)
        stages: dict[str, Any] = {
            "dataset": data.card["fingerprint"],
            "tokenizer": plain(self.recipe.tokenizer) | {"seed": seed},
            "model": plain(self.recipe.pretrain) | {"seed": seed, "mislabeled": variant.mislabeled},
        }
        if variant.align is not None:
            stages["aligned"] = plain(self.recipe.align)
        self.run = SharedRun(out / "fits", seed, device, decided_by=stages)
        measuring = {"search": variant.search, "max_users": config.max_users}
        super().__init__(out / "results", "variant", {**stages, "measured": measuring})

    def measured(self) -> Measured:
        """Fit what is not fitted yet and measure it, unless that was done before."""
        return Measured(self.once("facts", self._measure), self.ranks["rank_B"])

    def _measure(self) -> dict[str, float | None]:
        recommender = self._fitted()
        (row,) = evaluate(recommender, self.data, "validation", "standard", CUTS, self.config.max_users).rows
        health = recommender.tokenizer.health
        self.keep(rank_B=row.ranks_B)
        return {
            **row.metrics,
            **row.extra,
            "users_per_second": row.users_per_second,
            "parameters": sum(p.numel() for p in recommender.model.parameters()),
            "train_seconds": training_seconds([self.run.folder_of(stage) for stage in self.run.decided_by][1:]),
            "collisions": health.collision_rate_nearest,
            "similarity": health.max_similarity,
            "decoded": recommender.config.num_steps or recommender.model.config.num_codebooks,
        }

    def _fitted(self) -> Recommender:
        """The row's recommender; stages that are finished are read."""
        taught = mislabeled(self.data, self.variant.mislabeled, self.seed)
        recommender = self.recipe.fit(taught, self.run)
        if self.variant.align is not None:
            # weights as the best epoch left them, better or worse than before, under the search chosen before
            stage = AlignStage(recommender, taught, self.recipe.align, self.seed)
            loop.train(stage, self.recipe.align.loop, self.run.stage("aligned"))
            recommender = recommender.with_model(stage.policy)
        # the questions are of tokens and paths
        return recommender.with_search(retriever="paths", **self.variant.search)


def mislabeled(data: Dataset, part: float, seed: int) -> Dataset:
    """The data with the categories of a random part of the items, of those with one, swapped among them.

    Names of categories stay in order.
    """
    if not part:
        return data
    items, draw = ItemCatalog(data.items.table, data.items.category_level), np.random.default_rng(seed)
    known = np.flatnonzero(items.categories_I >= 0)
    chosen = draw.choice(known, round(part * len(known)), replace=False)
    items.categories_I[chosen] = items.categories_I[draw.permutation(chosen)]
    return replace(data, items=items)
