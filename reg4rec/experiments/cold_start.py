"""How well items and users are served that training never saw."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.data import Cases, Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, hit_ranks, rank_metrics
from reg4rec.experiments.finding import Finding, Table, check_study_folder, versions
from reg4rec.experiments.held_out import HeldOut, hold_out
from reg4rec.experiments.job import Job, plain
from reg4rec.recipes import RECIPES, Recipe
from reg4rec.recommend import Recommender
from reg4rec.run import SharedRun
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.tokenizer import Tokenizer

__all__ = ["ColdStartConfig", "Row", "TextNeighbor", "cold_start"]

TITLES = {"items": "New items", "users": "New users"}
METRICS = ("recall@10", "recall@50", "ndcg@10")
DEPTH = 50
USERS_AT_ONCE = 512

Int32 = npt.NDArray[np.int32]
Rank = Callable[[Sequences, Int32], Int32]
"""The best items (B, 50) for histories, among the given rows, without those of the history."""


@dataclass(frozen=True)
class ColdStartConfig:
    """A study of items and users that training never saw. Epochs and search are chosen on validation items seen."""

    items: float = 0.1
    """part of the items held out: nothing is fitted on their texts, matrices or interactions"""
    users: float = 0.1
    """part of the users held out, with all their interactions"""
    newest: tuple[int, ...] = (1, 2, 4)
    """lengths that users' histories are cut to, oldest items first, beside whole ones"""
    seed: int = 0
    """seed of what is held out and of every fit"""
    reg4rec: Recipe = field(default_factory=lambda: RECIPES["default"])
    sasrec: SASRecConfig = field(default_factory=SASRecConfig)

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("items", 0 < self.items < 1, "above 0 and below 1"),
            ("users", 0 < self.users < 1, "above 0 and below 1"),
            ("newest", all(n >= 1 for n in self.newest), "lengths from 1 up"),
            ("seed", self.seed in SEEDS, SEED_RANGE),
        )
        if {self.reg4rec.pretrain.part, self.sasrec.part} != {"train"}:
            raise InputError("a study of cold starts trains on the training part; leave part unchanged")


@dataclass(frozen=True)
class Row:
    """One method on one question (`items` or `users`) and one group of cases; `kept` is the length of histories."""

    question: str
    group: str
    method: str
    kept: str
    metrics: dict[str, float]


def cold_start(
    data: Dataset, config: ColdStartConfig | None = None, *, out: str | Path, device: str = "auto", **overrides: Any
) -> Finding[Row]:
    """Hold out items and users, fit on the rest, and measure both; writes `cold-start.md` and `cold-start.json`.

    Fits are saved in `out/fits`, what was measured in `out/results`: what is finished is not made again, what was
    killed continues. `overrides` replace fields of `config` by name, `seed=1` for example.
    """
    config, out = override(config or ColdStartConfig(), overrides), Path(out)
    check_study_folder(out)
    job = Job(out / "results", "cold-start", {"dataset": data.card["fingerprint"], **plain(config)})
    found = job.once("found", lambda: _measure(data, config, out / "fits", device))
    rows, counts = [Row(**row) for row in found["rows"]], found["counts"]
    held = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    tables = [_table([row for row in rows if row.question == question], title) for question, title in TITLES.items()]
    return Finding(
        "cold-start",
        ("reg4rec-cold-start", 2),
        data.name,
        "cold starts",
        rows,
        [tables[0]._replace(about=f"{held}, seed {config.seed}"), *tables[1:]],
        "Items of a user's own history are never ranked; every value is a mean over the users of its column.",
        asdict(config),
        versions(device),
        {"counts": counts},
    ).save(out)


def _measure(data: Dataset, config: ColdStartConfig, fits: Path, device: str) -> dict[str, Any]:
    held = hold_out(data, config.items, config.users, config.seed)
    begun = {"dataset": data.card["fingerprint"], "held out": [config.items, config.users], "seed": config.seed}
    stages = {"tokenizer": plain(config.reg4rec.tokenizer), "model": plain(config.reg4rec.pretrain)}
    run = SharedRun(fits, config.seed, device, decided_by={**begun, **stages})
    recommender = config.reg4rec.fit(held.seen, run)
    run = replace(run, decided_by={**begun, "sasrec": plain(config.sasrec)})
    sasrec = SASRec.fit(held.seen, config.sasrec, run.stage("sasrec"))
    counts = {
        "items_seen": held.seen.num_items,
        "items_new": held.new_items.num_rows,
        "users_seen": held.seen.num_users,
        "users_new": held.unseen.num_users,
        "users_whose_next_item_is_new": len(held.new_item_cases.targets_B),
    }
    rows = _new_items(held, recommender) + _new_users(held, recommender, sasrec, config)
    return {"rows": [asdict(row) for row in rows], "counts": counts}


def _table(rows: Sequence[Row], title: str) -> Table:
    """A line for each method and length of histories, the metrics of the groups side by side."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        values = {f"{metric}, {row.group}": value for metric, value in row.metrics.items()}
        lines.setdefault((row.method, row.kept), {"method": row.method, "history": row.kept}).update(values)
    heads = list(next(iter(lines.values())))
    forms = {head: f"{{row[{head}]}}" if head in ("method", "history") else f"{{row[{head}]:.4f}}" for head in heads}
    return Table(list(lines.values()), forms, title)


def _new_items(held: HeldOut, recommender: Recommender) -> list[Row]:
    """Users whose next item is new: is it found among all items, and among the new ones?"""
    larger = recommender.with_search()
    larger.add_items(held.new_items, held.new_vectors)
    rows_I = np.arange(len(larger.items), dtype=np.int32)
    methods = _untrained(held.seen, larger.tokenizer) | {"reg4rec": _searching(larger)}
    new = f"among {held.new_items.num_rows:,} new items"
    groups = {f"among all {len(rows_I):,} items": rows_I, new: rows_I[held.seen.num_items :]}
    found = []
    for group, allowed in groups.items():
        chance = _means(np.arange(len(allowed)))  # in a random order each place is as likely as another
        found.append(Row("items", group, "chance", "all", chance))
        for method, rank in methods.items():
            found.append(Row("items", group, method, "all", _measured(rank, held.new_item_cases, allowed)))
    return found


def _new_users(held: HeldOut, recommender: Recommender, sasrec: SASRec, config: ColdStartConfig) -> list[Row]:
    """The last item of new users, and of as many seen ones, from their newest items and from all."""
    methods = _untrained(held.seen, recommender.tokenizer) | {
        "sasrec": lambda histories, _: sasrec.rank(histories, DEPTH, True),
        "reg4rec": _searching(recommender),
    }
    new, seen = held.unseen.cases("test"), held.seen.cases("test")
    some = np.random.default_rng(config.seed).permutation(len(seen))[: len(new)]
    groups = {"new users": new, "seen users": seen.take(some)}
    rows_I = np.arange(held.seen.num_items, dtype=np.int32)
    found = []
    for newest in (*config.newest, None):
        for group, cases in groups.items():
            whole = cases.histories
            cut = cases if newest is None else Cases.of(cases.users_B, whole.last(newest), cases.targets_B)
            for method, rank in methods.items():
                kept = "all" if newest is None else str(newest)
                found.append(Row("users", group, method, kept, _measured(rank, cut, rows_I)))
    return found


def _untrained(seen: Dataset, tokenizer: Tokenizer) -> dict[str, Rank]:
    """Methods without a model; items beyond those of `seen` have been bought by no one."""
    counts_I = np.zeros(tokenizer.num_items, dtype=np.int64)
    counts_I[: seen.num_items] = seen.item_counts("train")
    text_IV = tokenizer.views.vectors_IV[:, : tokenizer.views.widths.get("text", 0)]
    last, mean = TextNeighbor(text_IV, newest=1), TextNeighbor(text_IV)

    def popularity(histories: Sequences, allowed: Int32) -> Int32:
        order = allowed[np.argsort(-counts_I[allowed], kind="stable")]
        return Popularity(order, "train").rank(histories, DEPTH, True)

    return {
        "popularity": popularity,
        "text neighbor, last item": lambda histories, allowed: last.rank(histories, DEPTH, allowed),
        "text neighbor, all items": lambda histories, allowed: mean.rank(histories, DEPTH, allowed),
    }


def _searching(recommender: Recommender) -> Rank:
    ids = recommender.items.ids
    return lambda histories, allowed: recommender.only(ids.take(pa.array(allowed)).to_pylist()).rank(
        histories, DEPTH, True
    )


def _measured(rank: Rank, cases: Cases, allowed: Int32) -> dict[str, float]:
    return _means(hit_ranks(rank(cases.histories, allowed), cases.targets_B))


def _means(rank_B: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of targets that have these 0-based ranks."""
    values = rank_metrics(rank_B, (10, DEPTH))
    return {name: float(values[name].mean()) for name in METRICS}


@dataclass(frozen=True, eq=False)
class TextNeighbor:
    """Ranks items by the cosine of their text and the mean text of a history's newest items.

    `text_IV` has unit rows; `newest` None takes all items of the history.
    """

    text_IV: npt.NDArray[np.float32]
    newest: int | None = None

    def rank(self, histories: Sequences, k: int, allowed: Int32) -> Int32:
        """(B, k) rows of the `allowed` items, best first, ties by place in `allowed`; items of the history never."""
        ranked = [self._ranked(batch, k, allowed) for batch in histories.batches(USERS_AT_ONCE)]
        return np.concatenate(ranked) if ranked else np.empty((0, k), dtype=np.int32)

    def _ranked(self, histories: Sequences, k: int, allowed: Int32) -> Int32:
        read = histories if self.newest is None else histories.last(self.newest)
        query_BV = np.zeros((len(histories), self.text_IV.shape[1]), dtype=np.float32)
        np.add.at(query_BV, read.owners(), self.text_IV[read.items])
        scores_BI = np.full((len(histories), len(self.text_IV)), -np.inf, dtype=np.float32)
        scores_BI[:, allowed] = query_BV @ self.text_IV[allowed].T
        scores_BI[histories.owners(), histories.items] = -np.inf
        scores_BX = scores_BI[:, allowed]
        best_BN = np.argsort(-scores_BX, axis=1, kind="stable")[:, :k]
        open_BN = np.isfinite(np.take_along_axis(scores_BX, best_BN, axis=1))
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        ranked_BN[:, : best_BN.shape[1]] = np.where(open_BN, allowed[best_BN], -1)
        return ranked_BN
