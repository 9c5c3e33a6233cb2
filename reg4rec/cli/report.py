"""`reg4rec report`: all findings on one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.output import show
from reg4rec.studies.report import gather, write_report

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """Gather what comparisons and studies found into one HTML page: `reg4rec report runs/studies runs/compare`."""

    folders: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="(required)"),
    ]
    """folders that compare or study wrote; those below them are searched too"""
    out: Path = Path("report.html")
    """the page, one file with its pictures"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        findings = gather(self.folders)
        write_report(findings, self.out)
        places = [finding.place for finding in findings]
        show(
            "\n".join([*places, f"{len(places)} findings: {self.out}"]),
            {"findings": places, "out": self.out},
            self.json,
        )
