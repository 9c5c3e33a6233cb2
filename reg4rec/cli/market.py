"""`reg4rec data market`: writes the files of a synthetic market."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.output import show
from reg4rec.data.market import Market, MarketConfig

__all__ = ["DataMarket"]


@dataclass(frozen=True)
class DataMarket:
    """Write a synthetic log of any size for tests: `reg4rec data market --out data/market --num-items 1000000`."""

    out: Path
    """folder for items.parquet and interactions.parquet, the input of `reg4rec data prepare`"""
    market: Annotated[MarketConfig, tyro.conf.arg(name="")] = field(default_factory=MarketConfig)
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        Market(self.market).write(self.out)
        files = [self.out / "interactions.parquet", "--items", self.out / "items.parquet"]
        text = f"a market of {self.market.num_items:,} items and {self.market.num_users:,} users: {self.out}\n"
        text += f"next: reg4rec data prepare {' '.join(map(str, files))} --out FOLDER"
        show(text, {"folder": self.out, **asdict(self.market)}, self.json)
