"""`reg4rec study`: experiments that answer one question each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reg4rec.cli.output import show
from reg4rec.data import load_dataset
from reg4rec.studies import ColdStartConfig, cold_start

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """Items and users that training never saw: `reg4rec study cold-start --data amazon2014-beauty --out runs/cold`."""

    study: Annotated[Literal["cold-start"], tyro.conf.Positional]
    """what to study"""
    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """folder for cold-start.md, cold-start.json and the runs; what is finished there is not fitted again"""
    config: Annotated[ColdStartConfig, tyro.conf.arg(name="")] = field(default_factory=ColdStartConfig)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        found = cold_start(load_dataset(self.data), self.config, out=self.out, device=self.device)
        show(f"{found.markdown()}\n{self.out / 'cold-start.md'}", found.as_dict(), self.json)
