"""The report of an evaluation: one row per ranker, and the protocol."""

import html
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.storage import write_json

__all__ = ["Report", "ReportRow"]

SHORTEST = 0.01
"""Speed is not shown for a ranking that took fewer seconds."""


@dataclass(frozen=True, eq=False)
class ReportRow:
    """One ranker: its metrics ("recall@10": mean over the targets), their standard errors, and the seconds of ranking.

    `groups` has the metrics of the groups of targets in the card, `lists` the measures of the lists (`ListMeasures`),
    `extra` values that only some rankers return. `ranks_B` are the 0-based ranks of the targets (the largest cut-off if
    not found), `users_B` their users (rows); these two are not saved.
    """

    name: str
    trained_on: str
    metrics: dict[str, float]
    errors: dict[str, float]
    seconds: float
    users_per_second: float
    ranks_B: npt.NDArray[np.int64] = field(repr=False)
    users_B: npt.NDArray[np.int32] = field(repr=False)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    lists: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The saved fields."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("ranks_B", "users_B")}


@dataclass(frozen=True)
class Report:
    """The rows of all rankers of one evaluation, and its protocol card."""

    rows: list[ReportRow]
    card: dict[str, Any]

    def __repr__(self) -> str:
        shown = next((name for name in self.rows[0].metrics if name == "ndcg@10"), next(iter(self.rows[0].metrics)))
        rows = ", ".join(f"{row.name} {_short(row.metrics[shown])}" for row in self.rows)
        return f"Report({self.card['dataset']!r}, {self.card['split']}, {self.card['protocol']}, {shown}: {rows})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, by convention `metrics.json`."""
        write_json(path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The content that `save` writes."""
        return {"card": self.card, "rows": [row.as_dict() for row in self.rows]}

    def table(self) -> str:
        """A text table: one line per ranker with recall, NDCG and standard errors, and the protocol below."""
        metrics = [name for name in self.rows[0].metrics if not name.startswith("mrr")]
        lines = [["method", "trained on", *metrics, "users/s"]]
        for row in self.rows:
            values = [f"{_short(row.metrics[name])} ± {_short(row.errors[name])}" for name in metrics]
            speed = f"{row.users_per_second:,.0f}" if row.seconds > SHORTEST else "-"
            lines.append([row.name, row.trained_on, *values, speed])
        text = _aligned(lines)
        card = self.card
        held = card["held_back"]
        targets = card["users"] if held.get("targets") != "all" else card["targets"]
        text.append(
            f"{card['dataset']}, {card['split']} ({held['kind']}), {card['protocol']} protocol: {targets:,} "
            f"{'users' if held.get('targets') != 'all' else 'targets'}, "
            f"{card['cold_targets']:,} cold targets {'dropped' if card['cold_targets_dropped'] else 'counted'}, "
            f"seen items {'removed' if card['filter_seen'] else 'kept'}; ± is the standard error over users"
        )
        text += [sentence for row in self.rows for sentence in _of_groups(row, card)]
        text += [
            f"{row.name}, its lists: {', '.join(f'{name} {value:.4g}' for name, value in row.lists.items())}"
            for row in self.rows
            if any(name.startswith("novelty") for name in row.lists)
        ]
        return "\n".join(text)


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _of_groups(row: ReportRow, card: dict[str, Any]) -> list[str]:
    shown = next((name for name in row.metrics if name == "recall@10"), next(iter(row.metrics)))
    parts = [f"{values[shown]:.4f} of {card['groups'][name]:,} targets {name}" for name, values in row.groups.items()]
    return [f"{row.name}, {shown}: {', '.join(parts)}"] if parts else []


def _aligned(lines: list[list[str]]) -> list[str]:
    """Lines with columns of equal width, the first two left-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for cells in lines:
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        text.append("  ".join(left + right))
    return text
