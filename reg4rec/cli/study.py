"""`reg4rec study`: experiments that answer one question each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reg4rec.cli.commands import trained_on
from reg4rec.cli.output import show
from reg4rec.data import load_dataset
from reg4rec.errors import InputError
from reg4rec.experiments import (
    ColdStartConfig,
    CorpConfig,
    RetrieverConfig,
    SamplingConfig,
    VariantConfig,
    cold_start,
    corp,
    retrievers,
    sampling,
    study_variants,
)
from reg4rec.recipes import RecipeName
from reg4rec.tokenizer import Tokenizer

__all__ = ["StudyColdStart", "StudyCorp", "StudyRetrievers", "StudySampling", "StudyVariants"]


@dataclass(frozen=True)
class StudyColdStart:
    """Items and users that training never saw: `reg4rec study cold-start --data amazon2014-beauty --out runs/cold`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """folder for cold-start.md, cold-start.json and the runs; finished fits are not repeated"""
    config: Annotated[ColdStartConfig, tyro.conf.arg(name="")] = field(default_factory=ColdStartConfig)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        found = cold_start(load_dataset(self.data), self.config, out=self.out, device=self.device)
        show(f"{found.markdown()}\n{self.out / 'cold-start.md'}", found.as_dict(), self.json)


@dataclass(frozen=True)
class StudyCorp:
    """Quality and cost of CORP by theta: `reg4rec study corp --model RUN/recommender --data D --out runs/corp`."""

    model: Path
    """recommender folder"""
    data: str
    """the dataset that it was trained on"""
    out: Path
    """folder for corp.md, corp.json and corp.png; finished measurements are not repeated"""
    config: Annotated[CorpConfig, tyro.conf.arg(name="")] = field(default_factory=CorpConfig)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        found = corp(*trained_on(self.model, self.data, self.device), self.config, out=self.out)
        show(f"{found.markdown()}\n{self.out / 'corp.md'}", found.as_dict(), self.json)


@dataclass(frozen=True)
class StudyRetrievers:
    """Exact ranking against paths: `reg4rec study retrievers --models RUN/recommender --data D --out runs/ranked`."""

    models: tuple[Path, ...]
    """recommender folders trained on the same data, for example with different seeds; the table has their averages"""
    data: str
    """the dataset that they were trained on"""
    out: Path
    """folder for retrievers.md and retrievers.json"""
    config: Annotated[RetrieverConfig, tyro.conf.arg(name="")] = field(default_factory=RetrieverConfig)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        if not self.models:
            raise InputError("models is empty; give one or more recommender folders")
        loaded = [trained_on(model, self.data, self.device) for model in self.models]
        recommenders = [recommender for recommender, _ in loaded]
        found = retrievers(recommenders, loaded[0][1], self.config, out=self.out)
        show(f"{found.markdown()}\n{self.out / 'retrievers.md'}", found.as_dict(), self.json)


@dataclass(frozen=True)
class StudySampling:
    """How often LADQ must sample: `reg4rec study sampling --data D --tokens RUN/tokenizer --out runs/sampling`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    tokens: Path
    """tokenizer folder fitted on that dataset"""
    out: Path
    """folder for sampling.md, sampling.json, sampling.png and the run; the same command resumes a killed run"""
    config: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        data, tokenizer = load_dataset(self.data), Tokenizer.from_pretrained(self.tokens)
        found = sampling(data, tokenizer, self.config, out=self.out, device=self.device)
        show(f"{found.markdown()}\n{self.out / 'sampling.md'}", found.as_dict(), self.json)


@dataclass(frozen=True)
class StudyVariants:
    """One recipe fitted with variations: `reg4rec study tokenizers --data amazon2014-beauty --out runs/studies`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """folder for the table, the picture and the fits; studies in one folder share fits; finished ones are kept"""
    study: tyro.conf.Suppress[str]
    config: Annotated[VariantConfig, tyro.conf.arg(name="")] = field(default_factory=VariantConfig)
    recipe: RecipeName = "default"
    """recipe that the variants change; --recipe.* set its settings"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        found = study_variants(self.study, load_dataset(self.data), self.config, out=self.out, device=self.device)
        show(f"{found.markdown()}\n{self.out / f'{self.study}.md'}", found.as_dict(), self.json)
