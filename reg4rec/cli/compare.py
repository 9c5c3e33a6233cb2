"""`reg4rec compare`: every method on one dataset in one run, and the table."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from reg4rec.cli.study import Experiment
from reg4rec.data import load_dataset
from reg4rec.experiments import CompareConfig, Finding, compare
from reg4rec.model import Size
from reg4rec.settings import override

__all__ = ["Compare"]


@dataclass(frozen=True, kw_only=True)
class Compare(Experiment):
    """Fit, evaluate and tabulate all methods: `reg4rec compare --data data/mine --out runs/compare --seeds 0 1 2`."""

    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    size: Size | None = None
    """size of all generative models; short for --reg4rec.pretrain.size, --paper.pretrain.size, --tiger.pretrain.size"""

    def find(self) -> Finding[Any]:
        config = self.config
        if self.size is not None:
            methods = ("tiger", "paper", "reg4rec")
            config = override(config, {name: override(getattr(config, name), {"size": self.size}) for name in methods})
        return compare(load_dataset(self.data), config, out=self.out, device=self.device)
