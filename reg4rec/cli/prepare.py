"""`reg4rec data get` and `reg4rec data prepare`: write a dataset folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.data import DataOptions, FileOptions, describe
from reg4rec.cli.output import show

__all__ = ["DataGet", "DataPrepare"]


@dataclass(frozen=True)
class DataGet:
    """Download and prepare a public dataset: `reg4rec data get ml-100k --out data/ml-100k`."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """ml-100k, or a folder with MovieLens, Amazon reviews, RecBole atomic files or prepared sequences"""
    out: Path
    """dataset folder to write"""
    min_interactions: int | None = None
    """drop users and items with fewer interactions (k-core); by default 5 for Amazon and RecBole, 1 for others"""
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        data = self.options.load(self.name, self.min_interactions)
        data.save(self.out)
        show(describe(data, self.out), {"dataset": self.out, "name": data.name, **data.card}, self.json)


@dataclass(frozen=True)
class DataPrepare:
    """Prepare your own files: `reg4rec data prepare clicks.parquet --items items.parquet --out data/mine`."""

    interactions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Parquet, CSV, TSV, JSONL or RecBole file (optionally gzipped) with one interaction per row; a folder or
    'part-*.csv' of such files; or .txt with lines `user item item ...`"""
    out: Path
    """dataset folder to write"""
    items: Path | None = None
    """file in one of these formats with one item per row"""
    files: Annotated[FileOptions, tyro.conf.arg(name="")] = field(default_factory=FileOptions)
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        data = self.options.read(self.files, self.interactions, self.items)
        data.save(self.out)
        show(describe(data, self.out), {"dataset": self.out, "name": data.name, **data.card}, self.json)
