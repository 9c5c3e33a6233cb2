"""Whether the synthetic market is like a real log to a model: what one learns from each, side by side.

    python -m bench.market --pair runs/beauty/recommender data/beauty --pair runs/market/recommender data/market

Scores are those of all items for sampled histories of training: of an item's tokens together and of its residual,
their spread over the items. The shortlist is how many items, in the order of their tokens' scores alone, hold the
best ten by the whole score, for 99.5 % of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from reg4rec.data import Dataset, Sequences, load_dataset
from reg4rec.model import last_states
from reg4rec.recommend import Recommender

STATES, BEST, SHARE = 1000, 10, 0.995


@torch.inference_mode()
def learned(recommender: Recommender, histories: Sequences) -> dict[str, float]:
    model, codes_IM = recommender.model, recommender.codes_IM
    whole_ID = recommender.scan.vectors.rows_ID
    residual_ID = model.residual_ID.float()
    tokens_ID = whole_ID - residual_ID
    lengths_B = torch.from_numpy(histories.last(model.config.max_history).lengths)
    newest = histories.last(model.config.max_history)
    state_BD = last_states(model, torch.from_numpy(newest.items).long(), lengths_B, codes_IM).float()
    scores_BI, token_BI = state_BD @ whole_ID.T, state_BD @ tokens_ID.T
    residual_BI = scores_BI - token_BI
    best_BN = scores_BI.topk(BEST, dim=1).indices
    place_BI = token_BI.argsort(dim=1, descending=True).argsort(dim=1)
    places = place_BI.gather(1, best_BN).flatten().numpy()
    return {
        "items": len(whole_ID),
        "spread of scores": float(scores_BI.std(1).mean()),
        "spread of token scores": float(token_BI.std(1).mean()),
        "spread of residual scores": float(residual_BI.std(1).mean()),
        "norm of states": float(state_BD.norm(dim=1).mean()),
        "norm of token sums": float(tokens_ID.norm(dim=1).mean()),
        "norm of residuals": float(residual_ID.norm(dim=1).mean()),
        "residual share of the squared norm": float(residual_ID.square().sum() / whole_ID.square().sum()),
        "shortlist for 99.5 %": float(np.quantile(places, SHARE) + 1),
    }


def histories_of(data: Dataset, seed: int = 0) -> Sequences:
    train = data.part("train")
    users = np.flatnonzero(train.lengths > 0)
    return train.take(np.sort(np.random.default_rng(seed).choice(users, min(STATES, len(users)), replace=False)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("RECOMMENDER", "DATASET"), required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {
        folder: learned(Recommender.from_pretrained(Path(folder), "cpu"), histories_of(load_dataset(name)))
        for folder, name in options.pair
    }
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
