"""The methods that can be compared: how each is fitted, and how large it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from reg4rec.baselines import SASRec, Tiger
from reg4rec.comparison.config import CompareConfig
from reg4rec.data import Dataset
from reg4rec.evaluation import Popularity, Ranker
from reg4rec.infer import Recommender
from reg4rec.loop import LoopConfig
from reg4rec.recipes import Recipe
from reg4rec.run import Run
from reg4rec.train import align

__all__ = ["METHODS", "Fitted", "Job", "Method"]

Part = Literal["train", "train+validation"]


@dataclass(frozen=True)
class Job:
    """One fit: where it writes, and for how long it trains.

    `epochs` None chooses the epoch on validation; a number is a final fit of so many epochs on train+validation, which
    takes over what the fit in the folder `first` has chosen.
    """

    data: Dataset
    config: CompareConfig
    out: Path
    seed: int
    device: str
    epochs: int | None = None
    first: Path | None = None

    @property
    def run(self) -> Run:
        return Run(self.out, self.seed, self.device)

    @property
    def part(self) -> Part:
        return "train" if self.epochs is None else "train+validation"

    def plan(self, loop: LoopConfig) -> LoopConfig:
        """A method's loop as this job wants it."""
        return loop if self.epochs is None else replace(loop, epochs=self.epochs, patience=0)


class Fitted(NamedTuple):
    """A fitted method and the number of its trained parameters."""

    ranker: Ranker
    parameters: int


class Method(NamedTuple):
    """How to fit one method. `model_run` is the part of the run folder whose best epoch a final fit takes over.

    A method that is not `seeded` comes out the same for every seed and is fitted once, as seed 0.
    """

    fit: Callable[[Job], Fitted]
    settings: Callable[[CompareConfig], Any]
    model_run: str = ""
    seeded: bool = True


def _fit_popularity(job: Job) -> Fitted:
    return Fitted(Popularity.fit(job.data, job.part), 0)


def _fit_sasrec(job: Job) -> Fitted:
    config = replace(job.config.sasrec, part=job.part, loop=job.plan(job.config.sasrec.loop))
    model = SASRec.fit(job.data, config, job.run)
    return Fitted(model, _size(model.network))


def _fit_tiger(job: Job) -> Fitted:
    own = job.config.tiger
    config = replace(own, pretrain=replace(own.pretrain, part=job.part, loop=job.plan(own.pretrain.loop)))
    model = Tiger.fit(job.data, config, job.run)
    return Fitted(model, _size(model.recommender.model) + _size(model.recommender.tokenizer.quantizer))


def _fit_recipe(job: Job, own: Recipe) -> Fitted:
    recipe = replace(own, pretrain=replace(own.pretrain, part=job.part, loop=job.plan(own.pretrain.loop)))
    search = None
    if job.first is not None:
        search = Recommender.from_pretrained(job.first / "model" / "recommender", "cpu").config
    model = recipe.fit(job.data, job.run, search=search)
    return Fitted(model, _size(model.model) + _size(model.tokenizer.quantizer))


def _fit_aligned(job: Job, own: Recipe, start: str) -> Fitted:
    """The fit of the method `start` with the same seed, which is made where it does not stand yet, and aligned."""
    first = _fit_recipe(replace(job, out=job.out.parents[1] / start / job.out.name), own)
    assert isinstance(first.ranker, Recommender)
    return Fitted(align(first.ranker, job.data, own.align, job.run), first.parameters)


def _fitted_by(own: Recipe) -> dict[str, Any]:
    """What of a recipe decides a fit without alignment."""
    return {"tokenizer": own.tokenizer, "pretrain": own.pretrain}


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


METHODS: dict[str, Method] = {
    "popularity": Method(_fit_popularity, lambda config: {}, seeded=False),
    "sasrec": Method(_fit_sasrec, lambda config: config.sasrec),
    "tiger": Method(_fit_tiger, lambda config: config.tiger, model_run="model"),
    "reg4rec-paper": Method(
        lambda job: _fit_recipe(job, job.config.paper), lambda config: _fitted_by(config.paper), model_run="model"
    ),
    "reg4rec": Method(
        lambda job: _fit_recipe(job, job.config.reg4rec), lambda config: _fitted_by(config.reg4rec), model_run="model"
    ),
    "reg4rec-paper-aligned": Method(
        lambda job: _fit_aligned(job, job.config.paper, "reg4rec-paper"), lambda config: config.paper
    ),
    "reg4rec-aligned": Method(
        lambda job: _fit_aligned(job, job.config.reg4rec, "reg4rec"), lambda config: config.reg4rec
    ),
}
"""By name; the settings of a method are what makes two of its runs the same run."""
