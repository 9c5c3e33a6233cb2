"""Extend reg4rec without a fork: your own reader, tokens, loss, reward, retriever, method and training loop.

python examples/extend.py
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

import reg4rec
from reg4rec.model import sized
from reg4rec.train import Batch


def read_baskets(lines: list[str]) -> reg4rec.Dataset:
    """A reader: turn any source into a table, and `read_interactions` checks and counts it. Here: user;time;a,b,c"""
    rows = [(user, item, int(time)) for user, time, items in (x.split(";") for x in lines) for item in items.split(",")]
    return reg4rec.read_interactions(pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row"))


def popular_tokens(data: reg4rec.Dataset, levels: int = 8) -> reg4rec.Tokenizer:
    """A tokenizer: codes from anywhere. Here: an item's category, its popularity level, and a number."""
    rank_I = np.argsort(np.argsort(-data.item_counts("train"), kind="stable"))
    category_I = np.maximum(0, data.items.categories_I)
    codes_IM = np.stack([category_I, rank_I * levels // data.num_items, np.arange(data.num_items) % levels], axis=1)
    return reg4rec.Tokenizer.from_codes(codes_IM, data)


class Calm(reg4rec.PretrainStage):
    """A loss: the usual one, and a penalty on large residuals. The `name` keeps other stages out of its run folders."""

    name = "calm"

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        losses = super().loss(batch)
        residual = self.module.residual_ID.square().mean()
        return losses | {"loss": losses["loss"] + 0.1 * residual, "residual": residual.detach()}


class Explore:
    """A reward, 0 to 1 for each path: the share of its tokens that no item of the user's history has."""

    def __init__(self, tokens: reg4rec.Tokenizer):
        self.codes_IM = tokens.codes_IM.long()

    def __call__(self, paths: reg4rec.RewardedPaths) -> torch.Tensor:
        new_BGM = torch.zeros_like(paths.tokens_BGM, dtype=torch.bool)
        for user, history in enumerate(paths.histories):
            used_LM = self.codes_IM[torch.from_numpy(history).long()].to(new_BGM.device)
            new_BGM[user] = ~(paths.tokens_BGM[user][:, None] == used_LM).any(1)
        decoded_BGM = paths.tokens_BGM >= 0
        return (new_BGM & decoded_BGM).sum(-1) / decoded_BGM.sum(-1).clamp(min=1)


class Nearest:
    """A retriever: anything with `name`, `trained_on` and `rank` is a ranker. Here: numpy over exported vectors."""

    name, trained_on = "nearest by numpy", "train"

    def __init__(self, rec: reg4rec.Recommender):
        self.rec, self.items_ID = rec, rec.item_vectors()

    def rank(self, histories: Any, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        scores_BI = self.rec.states(histories) @ self.items_ID.T
        for row, history in enumerate(histories):
            bias = -np.inf if filter_seen else self.rec.model.repeat_bias.item()
            scores_BI[row, np.unique(history)] += bias
        best_BN = np.argsort(-scores_BI, axis=1, kind="stable")[:, :k].astype(np.int32)
        return np.where(np.take_along_axis(scores_BI, best_BN, 1) > -np.inf, best_BN, -1)


def train_yourself(data: reg4rec.Dataset, tokens: reg4rec.Tokenizer, steps: int = 20) -> reg4rec.Recommender:
    """A training loop of your own: full softmax over all items, one user at a time."""
    codes_IM, rows_I = tokens.codes_IM.long(), torch.arange(data.num_items)
    config = tokens.config
    model = reg4rec.Reg4RecModel(
        sized("tiny", config.num_codebooks, config.codebook_size, 0, num_items=data.num_items, max_history=20)
    )
    model.catalog = tokens.catalog_fingerprint(data.items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for history in list(data.part("train"))[:steps]:
        row_BL = torch.from_numpy(np.asarray(history[-21:], dtype=np.int64))[None]
        states_BLD = model(codes_IM[row_BL[:, :-1]], row_BL[:, :-1])
        loss = torch.nn.functional.cross_entropy(states_BLD[0] @ model.embed_items(codes_IM, rows_I).T, row_BL[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rec = reg4rec.Recommender(model, tokens, data.items, data.item_counts("train"), device="cpu")
    rec.name = "own loop"
    return rec


def main(users: int = 400, epochs: int = 2) -> reg4rec.Report:
    data = reg4rec.synthetic_shop(num_users=users)
    tokens = popular_tokens(data)
    small: dict[str, Any] = {"size": "tiny", "epochs": epochs, "validation_users": 200}
    rec = reg4rec.fit_recommender(data, tokens, stage=Calm, **small)
    aligned = reg4rec.align(rec, data, own_rewards={"explore": (0.5, Explore(tokens))}, epochs=1)
    rankers = [reg4rec.Popularity.fit(data), rec, Nearest(aligned), train_yourself(data, tokens)]
    report = reg4rec.evaluate(rankers, data)
    print(report.table())
    return report


if __name__ == "__main__":
    print(read_baskets(["ann;1;bread,milk", "ann;2;tea", "bob;1;milk"]))
    main()
