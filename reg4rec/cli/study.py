"""`reg4rec compare` and `reg4rec study`: experiments that answer one question each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from reg4rec.cli.commands import trained_on
from reg4rec.cli.output import show
from reg4rec.data import load_dataset
from reg4rec.errors import InputError
from reg4rec.experiments import (
    ColdStartConfig,
    CompareConfig,
    CorpConfig,
    Finding,
    RetrieverConfig,
    SamplingConfig,
    VariantConfig,
    cold_start,
    compare,
    corp,
    retrievers,
    sampling,
    study_variants,
)
from reg4rec.model import Size
from reg4rec.recipes import RecipeName
from reg4rec.settings import override
from reg4rec.tokenizer import Tokenizer

__all__ = ["Compare", "StudyColdStart", "StudyCorp", "StudyRetrievers", "StudySampling", "StudyVariants"]


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """A command that ends in a table."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """folder for the table (.md, .json), its picture (.png), fits and results; finished work is not repeated"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    @abstractmethod
    def find(self) -> Finding[Any]:
        """What the experiment finds."""

    def run(self) -> None:
        found = self.find()
        show(f"{found.markdown()}\n{self.out / f'{found.name}.md'}", found.as_dict(), self.json)


@dataclass(frozen=True, kw_only=True)
class Compare(Experiment):
    """Fit, evaluate and tabulate all methods: `reg4rec compare --data data/mine --out runs/compare --seeds 0 1 2`."""

    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)
    size: Size | None = None
    """size of all generative models: sets --reg4rec.pretrain.size, --paper.pretrain.size and --tiger.pretrain.size"""

    def find(self) -> Finding[Any]:
        config = self.config
        if self.size is not None:
            methods = ("tiger", "paper", "reg4rec")
            config = override(config, {name: override(getattr(config, name), {"size": self.size}) for name in methods})
        return compare(load_dataset(self.data), config, out=self.out, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StudyColdStart(Experiment):
    """Items and users that training never saw: `reg4rec study cold-start --data amazon2014-beauty --out runs/cold`."""

    config: Annotated[ColdStartConfig, tyro.conf.arg(name="")] = field(default_factory=ColdStartConfig)

    def find(self) -> Finding[Any]:
        return cold_start(load_dataset(self.data), self.config, out=self.out, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StudyCorp(Experiment):
    """Quality and cost of CORP by theta: `reg4rec study corp --model RUN/recommender --data D --out runs/corp`."""

    model: Path
    """recommender folder that was trained on this dataset"""
    config: Annotated[CorpConfig, tyro.conf.arg(name="")] = field(default_factory=CorpConfig)

    def find(self) -> Finding[Any]:
        return corp(*trained_on(self.model, self.data, self.device), self.config, out=self.out)


@dataclass(frozen=True, kw_only=True)
class StudyRetrievers(Experiment):
    """Exact ranking against paths: `reg4rec study retrievers --models RUN/recommender --data D --out runs/ranked`."""

    models: tuple[Path, ...]
    """recommender folders trained on the same data, for example with different seeds; the table has their averages"""
    config: Annotated[RetrieverConfig, tyro.conf.arg(name="")] = field(default_factory=RetrieverConfig)

    def find(self) -> Finding[Any]:
        if not self.models:
            raise InputError("models is empty; give one or more recommender folders")
        loaded = [trained_on(model, self.data, self.device) for model in self.models]
        recommenders = [recommender for recommender, _ in loaded]
        return retrievers(recommenders, loaded[0][1], self.config, out=self.out)


@dataclass(frozen=True, kw_only=True)
class StudySampling(Experiment):
    """How often LADQ must sample: `reg4rec study sampling --data D --tokens RUN/tokenizer --out runs/sampling`."""

    tokens: Path
    """tokenizer folder that was fitted on this dataset"""
    config: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)

    def find(self) -> Finding[Any]:
        data, tokenizer = load_dataset(self.data), Tokenizer.from_pretrained(self.tokens)
        return sampling(data, tokenizer, self.config, out=self.out, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StudyVariants(Experiment):
    """One recipe fitted with variations: `reg4rec study tokenizers --data amazon2014-beauty --out runs/studies`."""

    study: tyro.conf.Suppress[str]
    config: Annotated[VariantConfig, tyro.conf.arg(name="")] = field(default_factory=VariantConfig)
    recipe: RecipeName = "default"
    """recipe that the variants change; --recipe.* set its settings"""

    def find(self) -> Finding[Any]:
        return study_variants(self.study, load_dataset(self.data), self.config, out=self.out, device=self.device)
