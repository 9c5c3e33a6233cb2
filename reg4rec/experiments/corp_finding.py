"""What the study of CORP found, as Markdown, JSON and a picture."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reg4rec.experiments.finding import Finding, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CorpFindings", "Row"]

PAPER_THETA = 0.06
SHOWN = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}


@dataclass(frozen=True)
class Row:
    """One setting of the search. `measured` holds what `evaluate` found, by split; `rows_decoded` are a user's.

    `times_off` is the search's time over that with CORP off in the same round; `checking` the share of it that went
    into divergences and masks, None where it was not measured.
    """

    setting: str
    theta: float | None
    measured: dict[str, dict[str, float]]
    rows_decoded: int
    ms_per_user: float
    times_off: float
    checking: float | None


@dataclass(frozen=True)
class CorpFindings(Finding):
    """All rows, the settings, and the machine and versions that ran them."""

    dataset: str
    rows: list[Row]
    settings: dict[str, Any]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    FORMAT = "reg4rec-corp", 2

    @property
    def name(self) -> str:
        return "corp"

    def markdown(self) -> str:
        """One table, and what it was measured under."""
        splits = list(self.rows[0].measured)
        quality = [f"{split} {title}" for split in splits for title in SHOWN.values()]
        lines = [["theta", *quality, "pruned", "fallbacks", "rows", "ms", "times off", "checking"]]
        for row in self.rows:
            found = row.measured["test"]
            lines.append(
                [
                    row.setting,
                    *(f"{row.measured[split][metric]:.4f}" for split in splits for metric in SHOWN),
                    f"{found['paths_pruned']:.1f}",
                    f"{found['fallbacks']:.3f}",
                    str(row.rows_decoded),
                    f"{row.ms_per_user:.2f}",
                    f"{row.times_off:.2f}",
                    "" if row.checking is None else f"{row.checking:.1%}",
                ]
            )
        users = ", ".join(f"{self.rows[0].measured[split]['users']:,} {split} users" for split in splits)
        study, search = self.settings["study"], self.settings["search"]
        chosen = ", ".join(f"{name} {value}" for name, value in search.items() if name != "prune_threshold")
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        note = (
            "Protocol standard, all items ranked. pruned, fallbacks, rows decoded and ms are those of a user of test. "
            f"Times: {study['clock']} clock, {study['timed_users']} users together, medians of {study['repeats']} "
            "rounds; checking: divergences and masks."
        )
        parts = [
            f"# {self.dataset}: CORP\n",
            f"{users}; search: {chosen}\n",
            f"{markdown_table(lines)}\n",
            note,
            machine,
        ]
        return "\n".join([*parts, *self.notes]) + "\n"

    def picture_size(self) -> tuple[float, float]:
        return 10.5, 3.4

    def draw(self, figure: "Figure") -> None:
        panels = figure.subplots(1, 3)
        off, *rows = sorted(self.rows, key=lambda row: -1 if row.theta is None else row.theta)
        thetas = [row.theta for row in rows]
        for panel, (metric, title) in zip(panels, SHOWN.items(), strict=False):
            for number, split in enumerate(off.measured):
                color = f"C{number}"
                panel.plot(thetas, [r.measured[split][metric] for r in rows], "o-", color=color, label=split)
                panel.axhline(off.measured[split][metric], color=color, linestyle="--", label=f"{split}, off")
            _finish(panel, title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
        panels[2].plot(thetas, [row.times_off for row in rows], "o-", color="C2")
        panels[2].axhline(1, color="C2", linestyle="--")
        panels[2].set_ylim(0, 1.1 * max(1.0, *(row.times_off for row in rows)))
        _finish(panels[2], "search time, times CORP off")
        figure.suptitle(f"{self.dataset}: CORP over theta (dotted: the paper's)", fontsize=11)


def _finish(panel: "Axes", title: str) -> None:
    panel.axvline(PAPER_THETA, color="0.6", linestyle=":", linewidth=1)
    panel.set_xlabel("theta (nats)")
    panel.set_title(title, fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
