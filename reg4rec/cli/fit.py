"""`reg4rec fit`: from files to an evaluated recommender in one command."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.data import DataOptions, FileOptions, describe
from reg4rec.cli.output import show
from reg4rec.data import Dataset
from reg4rec.data.sources import is_table_source
from reg4rec.errors import InputError
from reg4rec.model import Size
from reg4rec.recipes import RecipeName, fit_and_evaluate, recipe_named
from reg4rec.run import Run

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """From files to an evaluated recommender: `reg4rec fit --data clicks.csv --items items.csv --out runs/shop`.

    Prepares the data, tokenizes the items, pre-trains the model, sets up the search on validation and measures Recall
    and NDCG on test. Killed and started again with the same words, it goes on.
    """

    data: str
    """file of interactions (see `reg4rec data prepare`), dataset folder, or the name of a public dataset"""
    out: Path
    """folder for data/, tokenizer/, model/, perhaps aligned/, recommender/ and metrics.json"""
    items: Path | None = None
    """with a file of interactions: the file that describes the items, a row an item"""
    recipe: RecipeName = "default"
    """default: the best that we measured; paper: the paper's parts alone"""
    config: Path | None = None
    """YAML or JSON file with settings of tokenizer, pretrain and align, all or a few, which replace the recipe's; every
    fit writes its own as recipe.yaml"""
    align: bool = False
    """align the paths by rewards after pre-training"""
    codebook_size: int | None = None
    """K, codewords of a codebook; by default about items / 8, at most 256"""
    size: Size | None = None
    """of the model: tiny, small (the default), base or large"""
    epochs: int | None = None
    """passes over the training data in pre-training, instead of the recipe's"""
    files: Annotated[FileOptions, tyro.conf.arg(name="")] = field(default_factory=FileOptions)
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    resume: bool = True
    """go on from what a killed fit left in the folder; with --no-resume everything starts over"""
    seed: int = 0
    """seed of all stages"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        run = Run(self.out, self.seed, self.device, self.resume)
        dials = {"size": self.size, "epochs": self.epochs}
        given = {name: value for name, value in dials.items() if value is not None}
        data = self._dataset()
        recipe = recipe_named(self.recipe).sized_for(data.num_items)
        if self.config is not None:
            recipe = recipe.changed_by_file(self.config)
        recipe = recipe.change(pretrain=given)
        if self.codebook_size is not None:
            recipe = recipe.change(tokenizer={"codebook_size": self.codebook_size})
        recommender, report = fit_and_evaluate(data, recipe, run, self.align)
        lines = [describe(data, self.out / "data"), recommender.tokenizer.describe(), "", report.table()]
        lines.append(f"recommender: {self.out / 'recommender'}")
        show("\n".join(lines), {"recommender": self.out / "recommender", **report.as_dict()}, self.json)

    def _dataset(self) -> Dataset:
        if is_table_source(self.data):
            return self.options.read(self.files, Path(self.data), self.items)
        if self.items is not None or self.files != FileOptions():
            raise InputError(f"data is {self.data!r}, no file; --items and the names of columns describe files")
        return self.options.load(self.data)
