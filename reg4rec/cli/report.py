"""`reg4rec report`: an HTML page of findings or of runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.output import show
from reg4rec.experiments.report import gather, write_report
from reg4rec.experiments.run_report import findings_of_run, is_run

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """One HTML page of comparisons and studies, or of a run: `reg4rec report runs/studies`, `reg4rec report runs/shop`.

    For a fit or one of its stages it shows the metrics, the settings that differ from the recipe, the training curves,
    the health of the tokens, the search, and the findings of `reg4rec doctor`.
    """

    folders: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="(required)"),
    ]
    """folders of comparisons and studies, searched with their subfolders, or folders of fits and stages"""
    out: Path = Path("report.html")
    """HTML file to write, with embedded pictures"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        findings = [
            finding
            for folder in self.folders
            for finding in (findings_of_run(folder) if is_run(folder) else gather([folder]))
        ]
        write_report(findings or gather(self.folders), self.out)
        places = [finding.place for finding in findings]
        show(
            "\n".join([*places, f"{len(places)} finding{'s' * (len(places) != 1)}: {self.out}"]),
            {"findings": places, "out": self.out},
            self.json,
        )
