"""What a study of variants found, as Markdown, JSON and a picture."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reg4rec.experiments.comparison import Spread
from reg4rec.experiments.finding import Finding, markdown_table
from reg4rec.statistics import error_of_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Measured", "Row", "VariantFindings", "compared"]

METRICS = {"recall@5": "Recall@5", "recall@10": "Recall@10", "ndcg@10": "NDCG@10", "recall@50": "Recall@50"}
FORMS = {
    "collisions": "{:.1%}",
    "category_accuracy": "{:.1%}",
    "similarity": "{:.2f}",
    "path_recall": "{:.4f}",
    "paths_pruned": "{:.1f}",
    "decoded": "{:.3g}",
    "parameters": "{:,.0f}",
    "train_seconds": "{:,.0f}",
    "users_per_second": "{:,.0f}",
}
"""How the further values of a row are written."""


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


@dataclass(frozen=True)
class VariantFindings(Finding):
    """All rows of a study, what each of them changes, the settings that they share, and what measured them."""

    dataset: str
    study: str
    question: str
    rows: list[Row]
    shown: tuple[str, ...]
    settings: dict[str, Any]
    changes: dict[str, Any]
    versions: dict[str, Any]
    notes: list[str]
    FORMAT = "reg4rec-study", 2

    @property
    def name(self) -> str:
        return self.study

    def markdown(self) -> str:
        """A table, and what it was measured under."""
        head = ["", *METRICS.values(), "change of Recall@10", *(name.replace("_", " ") for name in self.shown)]
        lines = [head]
        for row in self.rows:
            metrics = [str(_spread(row, metric)) for metric in METRICS]
            change = "" if row.change is None else f"{row.change:+.1%} ± {row.change_error:.1%}"
            lines.append([row.name, *metrics, change, *(_written(row, name) for name in self.shown)])
        seeds = ", ".join(map(str, self.settings["seeds"]))
        users = self.settings["max_users"]
        note = (
            f"Validation, {'all' if users is None else f'{users:,}'} users, protocol standard, seeds {seeds}. "
            "Change: against the first row, with its standard error over the users. "
            f"{', '.join(f'{name} {value}' for name, value in self.versions.items())}."
        )
        return (
            "\n".join([f"# {self.dataset}: {self.question}\n", f"{markdown_table(lines)}\n", note, *self.notes]) + "\n"
        )

    def picture_size(self) -> tuple[float, float]:
        return 10, 1.3 + 0.3 * len(self.rows)

    def draw(self, figure: "Figure") -> None:
        places = list(range(len(self.rows)))[::-1]
        changed, level = figure.subplots(1, 2, sharey=True)
        changes = [100 * (row.change or 0.0) for row in self.rows]
        errors = [100 * (row.change_error or 0.0) for row in self.rows]
        changed.errorbar(changes, places, xerr=errors, fmt="o", capsize=3, color="C0")
        changed.axvline(0, color="0.6", linestyle=":", linewidth=1)
        changed.set_title("change of Recall@10, % (standard error over users)", fontsize=10)
        spreads = [_spread(row, "ndcg@10") for row in self.rows]
        level.errorbar([s.mean for s in spreads], places, xerr=[s.std or 0.0 for s in spreads], fmt="o", capsize=3)
        level.set_title("NDCG@10", fontsize=10)
        for panel in (changed, level):
            panel.locator_params(axis="x", nbins=6)
            panel.set_yticks(places, [row.name for row in self.rows], fontsize=8)
            panel.grid(axis="y", linewidth=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{self.dataset}: {self.question}", fontsize=11)


def _spread(row: Row, fact: str) -> Spread:
    return Spread.of([value for value in row.facts[fact] if value is not None])


def _written(row: Row, fact: str) -> str:
    values = [value for value in row.facts.get(fact, []) if value is not None]
    return FORMS[fact].format(statistics.fmean(values)) if values else ""
