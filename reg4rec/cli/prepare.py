"""`reg4rec data get` and `reg4rec data prepare`: a folder that holds a dataset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.data import DataOptions, FileOptions, describe
from reg4rec.cli.output import show

__all__ = ["DataGet", "DataPrepare"]


@dataclass(frozen=True)
class DataGet:
    """Fetch a public dataset and prepare it: `reg4rec data get ml-100k --out data/ml-100k`."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """ml-100k, or a folder: MovieLens, Amazon reviews, RecBole atomic files, prepared sequences"""
    out: Path
    """the dataset folder to write"""
    min_interactions: int | None = None
    """users and items with fewer are dropped (k-core); by default 5 for Amazon and RecBole, 1 for the others"""
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
    """Parquet, CSV, TSV, JSONL or RecBole file, perhaps gzipped, a row an interaction; a folder or 'part-*.csv' of
    such files; or .txt, `user item item ...`"""
    out: Path
    """the dataset folder to write"""
    items: Path | None = None
    """the same kinds of file, a row an item"""
    files: Annotated[FileOptions, tyro.conf.arg(name="")] = field(default_factory=FileOptions)
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        data = self.options.read(self.files, self.interactions, self.items)
        data.save(self.out)
        show(describe(data, self.out), {"dataset": self.out, "name": data.name, **data.card}, self.json)
