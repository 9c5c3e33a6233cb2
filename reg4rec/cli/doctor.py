"""`reg4rec doctor`: known failures of a run, with remedies."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.output import show
from reg4rec.train.doctor import diagnose

__all__ = ["Doctor"]


@dataclass(frozen=True)
class Doctor:
    """Look for known failures in a run: `reg4rec doctor runs/mine`. Exit code 1 if there are any, else 0."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder of tokenize, pretrain or align"""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        found = diagnose(self.run_folder)
        lines = [f"* {finding}" for finding in found.findings] or ["healthy: none of the known failures"]
        show("\n".join([f"{found.stage}, {found.state}", *lines]), asdict(found), self.json)
        if found.findings:
            sys.exit(1)
