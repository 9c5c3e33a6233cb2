"""The stages as commands: each reads folders and writes a folder."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reg4rec.baselines import Popularity
from reg4rec.data import Dataset, load_dataset, read_interactions
from reg4rec.evaluation import Ranker, evaluate
from reg4rec.infer import Recommender
from reg4rec.infer.batch import read_users, recommend_to_folder
from reg4rec.storage import write_json
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig, calibrate, pretrain

__all__ = ["DataGet", "DataPrepare", "Evaluate", "Pretrain", "Recommend", "Tokenize", "build_recommender"]


@dataclass(frozen=True)
class DataGet:
    """Fetch a public dataset and prepare it: `reg4rec data get ml-100k --out data/ml-100k`."""

    name: Annotated[str, tyro.conf.Positional]
    """ml-100k, or a prepared folder"""
    out: Path
    """the dataset folder to write"""

    def run(self) -> None:
        data = load_dataset(self.name)
        data.save(self.out)
        print(describe(data, self.out))


@dataclass(frozen=True)
class DataPrepare:
    """Prepare your own files: `reg4rec data prepare clicks.parquet --items items.parquet --out data/mine`."""

    interactions: Annotated[Path, tyro.conf.Positional]
    """Parquet or CSV, a row an interaction"""
    out: Path
    """the dataset folder to write"""
    items: Path | None = None
    """Parquet or CSV, a row an item"""
    user: str = "user_id"
    """column of the user ids"""
    item: str = "item_id"
    """column of the item ids, in both files"""
    time: str = "timestamp"
    """column to sort by"""
    title: str = "title"
    """column of the item titles"""
    brand: str = "brand"
    """column of the item brands"""
    categories: str = "categories"
    """column of the category path: a list, or text separated by | or >"""
    min_interactions: int = 5
    """users and items with fewer are dropped, again and again until none is left (k-core)"""

    def run(self) -> None:
        data = read_interactions(
            self.interactions,
            self.items,
            user=self.user,
            item=self.item,
            time=self.time,
            title=self.title,
            brand=self.brand,
            categories=self.categories,
            min_interactions=self.min_interactions,
        )
        data.save(self.out)
        print(describe(data, self.out))


@dataclass(frozen=True)
class Tokenize:
    """Fit MPQ and give every item one token from each codebook: `reg4rec tokenize --data data/mine --out tokens`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    out: Path
    """the tokenizer folder to write"""
    config: TokenizerConfig = field(default_factory=TokenizerConfig)

    def run(self) -> None:
        tokenizer = fit_tokenizer(load_dataset(self.data), self.config, out=self.out)
        print(tokenizer.describe())
        print(f"tokenizer: {self.out}")


@dataclass(frozen=True)
class Pretrain:
    """Train the encoder-decoder: `reg4rec pretrain --data data/mine --tokens tokens --out runs/mine`."""

    data: str
    """dataset folder, or the name of a public dataset"""
    tokens: Path
    """tokenizer folder fitted on that dataset"""
    out: Path
    """run folder; a killed run started again goes on, and RUN/recommender holds the result"""
    config: PretrainConfig = field(default_factory=PretrainConfig)
    resume: bool = True
    """go on from the last checkpoint in the run folder"""
    seed: int = 0
    """seed of the weights, the batches, the orders and dropout"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    def run(self) -> None:
        data, tokenizer = load_dataset(self.data), Tokenizer.from_pretrained(self.tokens)
        recommender = build_recommender(data, tokenizer, self.config, self.out, self.resume, self.seed, self.device)
        recommender.save_pretrained(self.out / "recommender")
        print(f"recommender: {self.out / 'recommender'}")


@dataclass(frozen=True)
class Evaluate:
    """Recall and NDCG of a recommender beside popularity: `reg4rec evaluate --model RUN/recommender --data D`."""

    model: Path
    """recommender folder"""
    data: str
    """the dataset that it was trained on"""
    out: Path = Path("metrics.json")
    """where to write the figures and the protocol card"""
    split: Literal["validation", "test"] = "test"
    """which of the two held-back items is the target"""
    protocol: Literal["standard", "filtered"] = "standard"
    """standard: seen items stay, cold targets count; filtered: seen items removed, cold targets dropped"""
    max_users: int | None = None
    """evaluate a random sample of this many users"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    def run(self) -> None:
        recommender, data = Recommender.from_pretrained(self.model, self.device), load_dataset(self.data)
        rankers: list[Ranker] = [Popularity.fit(data, recommender.trained_on), recommender]
        report = evaluate(rankers, data, self.split, self.protocol, max_users=self.max_users)
        report.save(self.out)
        print(report.table())


@dataclass(frozen=True)
class Recommend:
    """Recommend for a file of histories: `reg4rec recommend --model DIR --input users.parquet --output recs`."""

    model: Path
    """recommender folder"""
    input: Path
    """Parquet with a column `items` (lists of item ids, oldest first) and optionally `user_id`"""
    output: Path
    """folder for the Parquet parts: user_id, rank, item_id, score, path, source"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """items for each user"""
    keep_seen: bool = False
    """allow items of the user's own history"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""

    def run(self) -> None:
        recommender = Recommender.from_pretrained(self.model, self.device)
        count = recommend_to_folder(recommender, read_users(self.input), self.output, self.k, not self.keep_seen)
        print(f"{count:,} users: {self.output}")


def build_recommender(
    data: Dataset,
    tokenizer: Tokenizer,
    config: PretrainConfig,
    out: Path,
    resume: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> Recommender:
    """Pre-train in a run folder, put the parts together, and let validation set up the search.

    A model trained on the validation items too keeps the paper's threshold. `calibration.json` lists what was tried.
    """
    model = pretrain(data, tokenizer, config, out, resume, seed, device)
    popularity_I = data.item_counts(config.part)
    recommender = Recommender(model, tokenizer, data.items, popularity_I, trained_on=config.part, device=device)
    if config.part == "train":
        recommender, tried = calibrate(recommender, data, max_users=config.validation_users, seed=seed)
        write_json(out / "calibration.json", {"chosen": asdict(recommender.config), "tried": tried})
        print(f"CORP threshold chosen on validation: {recommender.config.prune_threshold}")
    return recommender


def describe(data: Dataset, out: Path) -> str:
    """One line about a prepared dataset."""
    interactions = len(data.sequences.items)
    return (
        f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, {interactions:,} interactions, "
        f"{len(data.items.category_names)} categories: {out}"
    )
