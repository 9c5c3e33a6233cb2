"""`reg4rec demo`: MovieLens-100K from its files to recommendations, in one go."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from reg4rec.baselines import Popularity
from reg4rec.cli.data import describe
from reg4rec.data import Dataset, ViewConfig, load_dataset
from reg4rec.data.parquet import write_parquet
from reg4rec.evaluation import evaluate
from reg4rec.infer import Recommender
from reg4rec.infer.job import recommend_to_folder
from reg4rec.settings import override
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig, align, fit_recommender

__all__ = ["Demo"]


@dataclass(frozen=True)
class Demo:
    """Train, align, measure and use a recommender of MovieLens-100K, from its files to recommendations."""

    out: Path = Path("runs/demo")
    """folder for everything the demo makes"""
    epochs: int = 10
    """passes over the training data"""
    seed: int = 0
    """seed of tokenizer and model"""

    def run(self) -> None:
        started = time.monotonic()
        views = ViewConfig(text_columns=("title", "genres"))
        tokens = TokenizerConfig(codebook_size=64, views=views, seed=self.seed)
        config = override(PretrainConfig(), {"epochs": self.epochs})

        data = load_dataset("ml-100k")
        data.save(self.out / "data")
        print(describe(data, self.out / "data"))

        tokenizer = fit_tokenizer(data, tokens, out=self.out / "tokenizer")
        print(tokenizer.describe())

        recommender = fit_recommender(data, tokenizer, config, self.out / "pretrain", seed=self.seed)
        recommender = align(recommender, data, out=self.out / "align", seed=self.seed)
        recommender.save_pretrained(self.out / "recommender")

        report = evaluate([Popularity.fit(data), recommender], data)
        report = replace(report, card={**report.card, "seconds_of_demo": time.monotonic() - started})
        report.save(self.out / "metrics.json")
        print(report.table())

        write_parquet(self.out / "users.parquet", user_table(data))
        folder = self.out / "recommendations"
        done = recommend_to_folder(recommender, self.out / "users.parquet", folder, resume=False)
        print(f"recommendations for {done['users']} users: {folder}")
        show_one(recommender, data)
        print(f"\n{time.monotonic() - started:.0f} s in all; the recommender stands in {self.out / 'recommender'}")


def user_table(data: Dataset) -> pa.Table:
    """All users with their whole histories, as `reg4rec recommend` takes them."""
    offsets = pa.array(data.sequences.offsets)
    items = pa.LargeListArray.from_arrays(offsets, data.items.ids.take(pa.array(data.sequences.items)))
    return pa.table({"user_id": data.user_ids, "items": items})


def show_one(recommender: Recommender, data: Dataset) -> None:
    """Print the newest items of one user and what is recommended to that user."""
    titles = data.items.table["title"]
    history = data.sequences[0]
    print(f"\nuser {data.user_ids[0]} last watched: " + "; ".join(titles[int(i)].as_py() for i in history[-5:]))
    ids = data.items.ids.take(pa.array(history)).to_pylist()
    for row in recommender.recommend({data.user_ids[0].as_py(): ids}, k=5).iter_rows(named=True):
        title = titles[int(data.items.rows([row["item_id"]])[0])].as_py()
        print(f"  {row['rank']}. {title:44.44}  {row['score']:7.3f}  {' '.join(step['token'] for step in row['path'])}")
