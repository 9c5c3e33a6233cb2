"""`reg4rec demo`: the whole pipeline on MovieLens-100K."""

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from reg4rec.batch.job import recommend_to_folder
from reg4rec.cli.data import describe
from reg4rec.data import Dataset, load_dataset
from reg4rec.recipes import RECIPES, fit_and_evaluate
from reg4rec.recommend import Recommender
from reg4rec.run import Run

__all__ = ["Demo"]


@dataclass(frozen=True)
class Demo:
    """Train, align, evaluate and use a recommender on MovieLens-100K."""

    out: Path = Path("runs/demo")
    """folder for all results"""
    epochs: int = 10
    """number of passes over the training data"""
    seed: int = 0
    """seed of tokenizer and model"""

    def run(self) -> None:
        started = time.monotonic()
        run = Run(self.out, self.seed)
        recipe = RECIPES["default"].change(
            tokenizer={"codebook_size": 64, "text_columns": ("title", "genres")}, pretrain={"epochs": self.epochs}
        )
        data = load_dataset("ml-100k")
        print(describe(data, self.out / "data"))
        recommender, report = fit_and_evaluate(data, recipe, run, aligned=True)
        print(recommender.tokenizer.describe())
        print(report.table())

        folder = self.out / "recommendations"
        done = recommend_to_folder(recommender, data, folder, resume=False)
        print(f"recommendations for {done['users']} users: {folder}")
        show_one(recommender, data)
        print(f"\n{time.monotonic() - started:.0f} s in total; the recommender is saved in {self.out / 'recommender'}")


def show_one(recommender: Recommender, data: Dataset) -> None:
    """Print the newest items and the recommendations of one user."""
    titles = data.items.table["title"]
    history = data.sequences[0]
    print(f"\nuser {data.user_ids[0]} last watched: " + "; ".join(titles[int(i)].as_py() for i in history[-5:]))
    ids = data.items.ids.take(pa.array(history)).to_pylist()
    for row in recommender.recommend({data.user_ids[0].as_py(): ids}, k=5, return_paths=True).to_pylist():
        title = titles[int(data.items.rows([row["item_id"]])[0])].as_py()
        print(f"  {row['rank']}. {title:44.44}  {row['score']:7.3f}  {' '.join(step['token'] for step in row['path'])}")
