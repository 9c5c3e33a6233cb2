"""How well items and users are served that training never saw."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reg4rec.baselines import SASRec
from reg4rec.data import Cases, Dataset, Sequences
from reg4rec.evaluation import Popularity, hit_ranks, rank_metrics
from reg4rec.experiments.cold_start_config import ColdStartConfig
from reg4rec.experiments.cold_start_finding import ColdStartFindings, Row
from reg4rec.experiments.compare import versions
from reg4rec.experiments.finding import check_study_folder
from reg4rec.experiments.held_out import HeldOut, hold_out
from reg4rec.experiments.text_neighbor import TextNeighbor
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.settings import override
from reg4rec.tokenizer import Tokenizer

__all__ = ["cold_start"]

METRICS = ("recall@10", "recall@50", "ndcg@10")
DEPTH = 50

Int32 = npt.NDArray[np.int32]
Rank = Callable[[Sequences, Int32], Int32]
"""The best items (B, 50) for histories, among the given rows, without those of the history."""


def cold_start(
    data: Dataset, config: ColdStartConfig | None = None, *, out: str | Path, device: str = "auto", **overrides: Any
) -> ColdStartFindings:
    """Hold out items and users, fit on the rest, and measure both; writes `cold-start.md` and `cold-start.json`.

    The fits lie in `out` as run folders: what is finished there is not fitted again, what was killed goes on, and
    InputError where they have other settings. `overrides` replace fields of `config` by name, `seed=1` for example.
    """
    config, out = override(config or ColdStartConfig(), overrides), Path(out)
    check_study_folder(out)
    run = Run(out, config.seed, device)
    held = hold_out(data, config.items, config.users, config.seed)
    recommender = config.reg4rec.fit(held.seen, run)
    sasrec = SASRec.fit(held.seen, config.sasrec, run.stage("sasrec"))

    rows = _new_items(held, recommender) + _new_users(held, recommender, sasrec, config)
    counts = {
        "items_seen": held.seen.num_items,
        "items_new": held.new_items.num_rows,
        "users_seen": held.seen.num_users,
        "users_new": held.unseen.num_users,
        "users_whose_next_item_is_new": len(held.new_item_cases.targets_B),
    }
    findings = ColdStartFindings(data.name, rows, counts, asdict(config), versions(device))
    findings.save(out)
    return findings


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
    def rank(histories: Sequences, allowed: Int32) -> Int32:
        ids = recommender.items.ids.take(pa.array(allowed)).to_pylist()
        return recommender.only(ids).rank(histories, DEPTH, True)

    return rank


def _measured(rank: Rank, cases: Cases, allowed: Int32) -> dict[str, float]:
    return _means(hit_ranks(rank(cases.histories, allowed), cases.targets_B))


def _means(rank_B: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of targets that have these 0-based ranks."""
    values = rank_metrics(rank_B, (10, DEPTH))
    return {name: float(values[name].mean()) for name in METRICS}
