"""How weights of kinds of events change the recommendation of purchases: `python -m bench.events`, docs/data.md."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from reg4rec import Run
from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.data import Dataset, synthetic_shop
from reg4rec.data.shop import with_views
from reg4rec.evaluation import Popularity, Ranker, evaluate
from reg4rec.recipes import RECIPES

SEEDS = 3
EPOCHS = 6
TOKENS = {"epochs": 12, "autoencoder_epochs": 4}


def reg4rec(data: Dataset, run: Run) -> Ranker:
    recipe = RECIPES["default"].sized_for(data.num_items)
    return recipe.change(tokenizer=TOKENS, pretrain={"size": "tiny", "epochs": EPOCHS}).fit(data, run)


def sasrec(data: Dataset, run: Run) -> Ranker:
    return SASRec.fit(data, SASRecConfig(), run)


def popularity(data: Dataset, run: Run) -> Ranker:
    return Popularity.fit(data)


FITS: dict[str, Callable[[Dataset, Run], Ranker]] = {"popularity": popularity, "reg4rec": reg4rec, "sasrec": sasrec}


def logs(seed: int, num_users: int) -> dict[str, Dataset]:
    """A shop's log: purchases only, and with views of several weights. Every user's last interaction is a purchase."""
    shop = synthetic_shop(num_users=num_users, num_items=150, min_length=4, max_length=8, seed=seed)
    views = {f"purchase=1 view={w:g}": with_views(shop, view=w, seed=seed) for w in (1.0, 0.2, 0.0)}
    return {"purchases only": shop, **views}


def main(num_users: int = 500) -> None:
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(SEEDS):
        for log, data in logs(seed, num_users).items():
            for name, fit in FITS.items():
                began = time.perf_counter()
                row = evaluate(fit(data, Run(None, seed, "cpu", progress=False)), data).rows[0]
                seconds = time.perf_counter() - began
                found.setdefault((name, log), []).append([row.metrics["recall@10"], row.metrics["ndcg@10"], seconds])
                print(f"seed {seed} {name:10} {log:20} {found[name, log][-1]}", file=sys.stderr)
    print("| method | events | Recall@10 | NDCG@10 | seconds |")
    print("|---|---|---|---|---|")
    for (name, log), rows in sorted(found.items()):
        mean, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1)
        figures = " | ".join(f"{m:.4f} ± {s:.4f}" for m, s in zip(mean[:2], spread[:2], strict=True))
        print(f"| {name} | {log} | {figures} | {mean[2]:.0f} |")


if __name__ == "__main__":
    main()
