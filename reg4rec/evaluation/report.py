"""What an evaluation found: one row a ranker, and the protocol it was found under."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reg4rec.storage import write_json

__all__ = ["Report", "ReportRow"]


@dataclass(frozen=True)
class ReportRow:
    """One ranker: its metrics ("recall@10": mean over the users), and how long ranking took.

    `extra` holds what only some rankers can tell, by name.
    """

    name: str
    trained_on: str
    metrics: dict[str, float]
    seconds: float
    users_per_second: float
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The rows of all rankers of one evaluation and its protocol card."""

    rows: list[ReportRow]
    card: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write everything as JSON (`metrics.json` by habit)."""
        write_json(path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """What `save` writes."""
        return {"card": self.card, "rows": [asdict(row) for row in self.rows]}

    def table(self) -> str:
        """A printable table: a line a ranker, a column a metric, the protocol below."""
        metrics = list(self.rows[0].metrics)
        lines = [["method", "trained on", *metrics, "users/s"]]
        for row in self.rows:
            values = [f"{row.metrics[name]:.4f}" for name in metrics]
            lines.append([row.name, row.trained_on, *values, f"{row.users_per_second:,.0f}"])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [_aligned(line, widths) for line in lines]
        card = self.card
        text.append(
            f"{card['dataset']}, {card['split']} ({card['held_back']['kind']}), {card['protocol']} protocol: "
            f"{card['users']:,} users, "
            f"{card['cold_targets']:,} cold targets {'dropped' if card['cold_targets_dropped'] else 'counted'}, "
            f"seen items {'removed' if card['filter_seen'] else 'kept'}"
        )
        return "\n".join(text)


def _aligned(cells: list[str], widths: list[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(left + right)
