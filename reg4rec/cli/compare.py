"""`reg4rec compare`: fits and evaluates all methods on one dataset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.output import show
from reg4rec.data import load_dataset
from reg4rec.experiments import CompareConfig, compare
from reg4rec.model import Size
from reg4rec.settings import override

__all__ = ["Compare"]


@dataclass(frozen=True)
class Compare:
    """Fit, evaluate and tabulate all methods: `reg4rec compare --data data/mine --out runs/compare --seeds 0 1 2`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """folder for compare.md, compare.json, compare.png and the runs; finished runs are not repeated"""
    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    size: Size | None = None
    """size of all generative models: sets --reg4rec.pretrain.size, --paper.pretrain.size and --tiger.pretrain.size"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        config = self.config
        if self.size is not None:
            methods = ("tiger", "paper", "reg4rec")
            config = override(config, {name: override(getattr(config, name), {"size": self.size}) for name in methods})
        comparison = compare(load_dataset(self.data), config, out=self.out, device=self.device)
        show(f"{comparison.markdown()}\n{self.out / 'compare.md'}", comparison.as_dict(), self.json)
