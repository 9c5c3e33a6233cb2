"""`reg4rec fit`: the whole pipeline from files to an evaluated recommender."""

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
from reg4rec.recipes import RecipeName, fit_and_evaluate, read_settings_file, recipe_named
from reg4rec.run import Run
from reg4rec.settings import changed_by

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """Fit and evaluate a recommender from files: `reg4rec fit --data clicks.csv --items items.csv --out runs/shop`.

    Prepares the data, tokenizes the items, pre-trains the model, sets up the search on validation and measures Recall
    and NDCG on test. The same command resumes a killed fit.
    """

    data: str
    """file of interactions (see `reg4rec data prepare`), dataset folder, or the name of a public dataset"""
    out: Path
    """folder for data/, tokenizer/, model/, aligned/ (with --align), recommender/ and metrics.json"""
    items: Path | None = None
    """with a file of interactions: the file that describes the items, one row per item"""
    recipe: RecipeName = "default"
    """default: the settings that measured best; paper: only what the paper describes"""
    config: Path | None = None
    """YAML or JSON file with settings of tokenizer, pretrain and align, all or a few; they replace the recipe's. Every
    fit writes its settings as recipe.yaml"""
    align: bool = False
    """align the paths by rewards after pre-training"""
    codebook_size: int | None = None
    """K, number of codewords per codebook; by default about items / 8, at most 256"""
    size: Size | None = None
    """size of the model: tiny, small (the default), base or large"""
    epochs: int | None = None
    """number of pre-training epochs, instead of the recipe's"""
    files: Annotated[FileOptions, tyro.conf.arg(name="")] = field(default_factory=FileOptions)
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    resume: bool = True
    """resume a killed fit from its last checkpoint; --no-resume starts over"""
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
        settings = {} if self.config is None else read_settings_file(self.config)
        recipe = changed_by(recipe_named(self.recipe), settings).change(pretrain=given)
        data = self._dataset()
        if self.codebook_size is not None:
            recipe = recipe.change(tokenizer={"codebook_size": self.codebook_size})
        elif "codebook_size" not in settings.get("tokenizer", {}):
            recipe = recipe.sized_for(data.num_items)
        recommender, report = fit_and_evaluate(data, recipe, run, self.align)
        lines = [describe(data, self.out / "data"), recommender.tokenizer.describe(), "", report.table()]
        lines.append(f"recommender: {self.out / 'recommender'}")
        show("\n".join(lines), {"recommender": self.out / "recommender", **report.as_dict()}, self.json)

    def _dataset(self) -> Dataset:
        if is_table_source(self.data):
            return self.options.read(self.files, Path(self.data), self.items)
        if self.items is not None or self.files != FileOptions():
            raise InputError(f"data is {self.data!r}, which is not a file; leave out --items and options for columns")
        return self.options.load(self.data)
