"""What the study of cold starts found, as Markdown and JSON."""

from dataclasses import dataclass, field
from typing import Any

from reg4rec.experiments.finding import Finding, markdown_table

__all__ = ["ColdStartFindings", "Row"]

TITLES = {"items": "New items", "users": "New users"}
NOTE = "Items of a user's own history are never ranked; every value is a mean over the users of its column."


@dataclass(frozen=True)
class Row:
    """One method on one question (`items` or `users`) and one group of cases; `kept` is the length of histories."""

    question: str
    group: str
    method: str
    kept: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ColdStartFindings(Finding):
    """All rows, what was held out, the settings and the versions that ran them."""

    dataset: str
    rows: list[Row]
    counts: dict[str, int]
    settings: dict[str, Any]
    versions: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    FORMAT = "reg4rec-cold-start", 2

    @property
    def name(self) -> str:
        return "cold-start"

    def markdown(self) -> str:
        """A table for each question, and what it was measured under."""
        counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items())
        parts = [f"# {self.dataset}: cold starts\n", f"{counts}, seed {self.settings['seed']}\n"]
        for question, title in TITLES.items():
            rows = [row for row in self.rows if row.question == question]
            parts += [f"## {title}\n", f"{_table(rows)}\n"]
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        return "\n".join([*parts, f"{NOTE} {versions}.", *self.notes]) + "\n"


def _table(rows: list[Row]) -> str:
    """A line for each method and length of histories, the metrics of the groups side by side."""
    groups = list(dict.fromkeys(row.group for row in rows))
    found = {(row.method, row.kept, row.group): row.metrics for row in rows}
    metrics = list(rows[0].metrics)
    lines = [["method", "history", *(f"{metric}, {group}" for group in groups for metric in metrics)]]
    for method, kept in dict.fromkeys((row.method, row.kept) for row in rows):
        values = [found[method, kept, group][metric] for group in groups for metric in metrics]
        lines.append([method, kept, *(f"{value:.4f}" for value in values)])
    return markdown_table(lines)
