"""The methods that can be compared: how each is fitted, and how large it is."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from reg4rec.baselines import Ease, ItemKNN, Rpg, SASRec, Tiger, TigerConfig, Transitions
from reg4rec.checkpoints import newest_progress
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, ProtocolName, Ranker
from reg4rec.experiments.compare_config import CompareConfig
from reg4rec.experiments.job import plain
from reg4rec.experiments.spaces import Changes, changed
from reg4rec.recipes import Recipe
from reg4rec.recommend import Recommender
from reg4rec.run import Run, SharedRun, digest_of
from reg4rec.search import SearchConfig
from reg4rec.tokenizer import TokenizerConfig

__all__ = ["METHODS", "Fitted", "Method", "OwnFit", "with_own"]

Part = Literal["train", "train+validation"]


@dataclass(frozen=True)
class Fit:
    """One fit of a method, by its `settings`; fits that agree in all that decides them share a folder in `fits`.

    `epochs` None chooses the epoch on validation under `protocol`; a number is a final fit of that many epochs on
    train+validation, with the search that was chosen before.
    """

    data: Dataset
    settings: Any
    fits: Path
    seed: int
    device: str
    protocol: ProtocolName
    epochs: int | None = None
    search: SearchConfig | None = None

    @property
    def part(self) -> Part:
        return "train" if self.epochs is None else "train+validation"

    @property
    def plan(self) -> Changes:
        """What the fit decides about a training."""
        if self.epochs is None:
            return {"protocol": self.protocol}
        return {"part": self.part, "epochs": self.epochs, "patience": 0}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the fit, as JSON has it."""
        return {
            "dataset": self.data.card["fingerprint"],
            "settings": plain(self.settings),
            "seed": self.seed,
            "protocol": self.protocol,
            "epochs": self.epochs,
            "search": plain(self.search),
        }

    @property
    def planned(self) -> Any:
        """The settings with that plan."""
        stage = "pretrain." if isinstance(self.settings, Recipe | TigerConfig) else ""
        return changed(self.settings, {f"{stage}{name}": value for name, value in self.plan.items()})

    def run(self, name: str) -> Run:
        """A separate folder for a fit that has no stages."""
        return Run(self.fits / f"{name}-{digest_of(self.identity)}", self.seed, self.device)


class Fitted(NamedTuple):
    """A fitted method, the number of its trained parameters, its run folders, its epochs and, where it has one, how
    validation set up its search."""

    ranker: Ranker
    parameters: int = 0
    runs: tuple[Path, ...] = ()
    epochs: int = 0
    search: SearchConfig | None = None


class Method(NamedTuple):
    """How to fit one method. `tuned_as` names the method whose tries it takes over.

    A method that is not `seeded` comes out the same for every seed and is fitted once, as seed 0.
    """

    fit: Callable[[Fit], Fitted]
    settings: Callable[[CompareConfig], Any] = lambda _: {}
    seeded: bool = True
    tuned_as: str = ""


OwnFit = Callable[[Dataset, Part, int], Ranker]
"""Fits a method of your own on the part of the data that is named, with a seed; `trained_on` must be that part."""


def _counted(fit: Callable[..., Ranker]) -> Callable[[Fit], Fitted]:
    """A method that counts and learns nothing."""
    return lambda job: Fitted(fit(job.data, changed(job.settings, {"part": job.part})))


def _fit_sasrec(job: Fit) -> Fitted:
    run = job.run("sasrec")
    model = SASRec.fit(job.data, job.planned, run)
    return _trained(model, [model.network], [run])


def _fit_rpg(job: Fit) -> Fitted:
    settings = job.planned
    stages = {**_of_tokens(job, settings.tokenizer), "model": {"rpg": plain(settings), "seed": job.seed}}
    run = SharedRun(job.fits, job.seed, job.device, decided_by=stages)
    model = Rpg.fit(job.data, settings, run)
    return _trained(model, [model.network], [run.stage("model"), run.stage("tokenizer")])


def _fit_tiger(job: Fit) -> Fitted:
    settings = job.planned
    run = _shared(job, settings)
    model = Tiger.fit(job.data, settings, run)
    return _generative(model, model.recommender, run)


def _fit_recipe(job: Fit, aligned: bool = False, paths: bool = False) -> Fitted:
    recipe = job.planned.change(align={"protocol": job.protocol}) if aligned else job.planned
    run = _shared(job, recipe)
    model = recipe.fit(job.data, run, aligned, job.search)
    ranker = model.with_search(retriever="paths") if paths else model
    return _generative(ranker, model, run, *(["aligned"] if aligned else []))


def _shared(job: Fit, settings: Recipe | TigerConfig) -> SharedRun:
    stages = _of_tokens(job, settings.tokenizer)
    stages |= {"model": plain(settings.pretrain) | {"search": plain(job.search)}}
    stages |= {"aligned": plain(settings.align)} if isinstance(settings, Recipe) else {}
    return SharedRun(job.fits, job.seed, job.device, decided_by=stages)


def _of_tokens(job: Fit, config: TokenizerConfig) -> dict[str, Any]:
    """What decides the tokens of a fit."""
    seeded = plain(config) | {"seed": job.seed, "part": job.part}
    return {"dataset": job.identity["dataset"], "tokenizer": seeded}


def _generative(ranker: Ranker, model: Recommender, run: SharedRun, *further: str) -> Fitted:
    runs = [run.stage(stage) for stage in ("model", "tokenizer", *further)]
    return _trained(ranker, [model.model, model.tokenizer.quantizer], runs, model.config)


def _trained(
    ranker: Ranker, modules: Sequence[nn.Module], runs: Sequence[Run], search: SearchConfig | None = None
) -> Fitted:
    """By runs of which the first is the one whose epochs count; a run without a loop has 0."""
    folders = tuple(Path(run.out or "") for run in runs)
    progress = newest_progress(folders[0])
    size = sum(weight.numel() for module in modules for weight in module.parameters())
    return Fitted(ranker, size, folders, 0 if progress is None else progress.best_epoch + 1, search)


METHODS: dict[str, Method] = {
    "popularity": Method(lambda job: Fitted(Popularity.fit(job.data, job.part)), seeded=False),
    "transitions": Method(_counted(Transitions.fit), lambda config: config.transitions, seeded=False),
    "item-knn": Method(_counted(ItemKNN.fit), lambda config: config.item_knn, seeded=False),
    "ease": Method(_counted(Ease.fit), lambda config: config.ease, seeded=False),
    "sasrec": Method(_fit_sasrec, lambda config: config.sasrec),
    "sasrec-vectors": Method(_fit_sasrec, lambda config: config.sasrec_vectors),
    "rpg": Method(_fit_rpg, lambda config: config.rpg),
    "tiger": Method(_fit_tiger, lambda config: config.tiger),
    "reg4rec-paper": Method(_fit_recipe, lambda config: config.paper),
    "reg4rec": Method(_fit_recipe, lambda config: config.reg4rec),
    "reg4rec-paths": Method(
        lambda job: _fit_recipe(job, paths=True), lambda config: config.reg4rec, tuned_as="reg4rec"
    ),
    "reg4rec-paper-aligned": Method(
        lambda job: _fit_recipe(job, aligned=True), lambda config: config.paper, tuned_as="reg4rec-paper"
    ),
    "reg4rec-aligned": Method(
        lambda job: _fit_recipe(job, aligned=True), lambda config: config.reg4rec, tuned_as="reg4rec"
    ),
}
"""By name; what a fit is decided by (`Fit.identity`) is what makes two of them the same."""


def with_own(own: Mapping[str, OwnFit]) -> dict[str, Method]:
    """METHODS and those of the caller; InputError for names that cannot be folders or are taken."""
    for name in own:
        if name in METHODS or re.fullmatch(r"[\w.-]+", name) is None:
            raise InputError(f"own has a method {name!r}; choose a name of letters, digits, - . _ that is not taken")
    return METHODS | {name: _of_own(name, fit) for name, fit in own.items()}


def _of_own(name: str, fit: OwnFit) -> Method:
    return Method(lambda job: Fitted(fit(job.data, job.part, job.seed)), lambda _: {"own": name})
