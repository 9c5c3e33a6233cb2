"""Whether items are better ranked by their own score or found by paths, and whether CORP helps the former."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from reg4rec.data import Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName, evaluate, gains, hit_ranks
from reg4rec.experiments.finding import SPLITS, Columns, Finding, Table, check_study_folder, ranking, versions
from reg4rec.experiments.job import Job
from reg4rec.recommend import Recommender
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.statistics import paired_interval

__all__ = ["RetrieverConfig", "Row", "retrievers"]

DEPTH = 50
RETRIEVERS: tuple[Literal["paths", "exact"], ...] = ("paths", "exact")
Ranks = npt.NDArray[np.int64]
Metric = dict[str, float]


@dataclass(frozen=True)
class RetrieverConfig:
    """What is compared, and on whom."""

    thetas: tuple[float, ...] = (0.02, 0.04, 0.06, 0.1, 0.2)
    """the items of the exact list whose paths' categories move by more than theta (nats) go behind all others"""
    protocol: ProtocolName = "standard"
    """standard: seen items stay, cold targets count; filtered: seen items removed, cold targets dropped"""
    max_users: int | None = None
    """users of each split, all by default"""
    seed: int = 0
    """seed of the sample of users and of the bootstrap"""

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("thetas", all(theta >= 0 for theta in self.thetas), "numbers of nats from 0 up"),
            ("max_users", self.max_users is None or self.max_users >= 1, "1 or more, or None"),
            ("seed", self.seed in SEEDS, SEED_RANGE),
        )


@dataclass(frozen=True)
class Row:
    """One way to rank: its metrics, by split, and how far they are from those of `exact` with a 95 % interval."""

    way: str
    metrics: dict[str, Metric]
    beyond_exact: dict[str, dict[str, tuple[float, float, float]]]
    users_per_second: float | None


def retrievers(
    recommenders: Sequence[Recommender],
    data: Dataset,
    config: RetrieverConfig | None = None,
    *,
    out: str | Path,
    **overrides: Any,
) -> Finding[Row]:
    """Rank by paths and exactly with the same weights; writes `retrievers.md` and `retrievers.json`.

    Several recommenders of the same data, of other seeds say, are averaged user by user. The ranks of each are saved in
    `out/results`: started again, the study continues with the next one. `overrides` replace fields of `config`.
    InputError for models that do not score items.
    Paper: CORP, and item-level score, ours, D11.
    """
    config, out = override(config or RetrieverConfig(), overrides), Path(out)
    check_study_folder(out)
    if not recommenders or not all(one.model.scores_items for one in recommenders):
        raise InputError("a model without item scores has one retriever; give recommenders that score items")
    thetas = config.thetas if all(one.model.category_head is not None for one in recommenders) else ()
    jobs = []
    for one in recommenders:
        settings = {**asdict(config), "thetas": thetas}
        jobs.append(Job(out / "results", "retrievers", ranking(one, data) | settings))
        jobs[-1].once("speeds", partial(_rank, jobs[-1], one, data, config, thetas))
    ways = (*RETRIEVERS, *(f"theta {theta:g}" for theta in thetas))
    found = {(split, way): _metrics([job.ranks[f"{split} {way}"] for job in jobs]) for split in SPLITS for way in ways}
    rows = [
        Row(
            way,
            {split: {name: float(of.mean()) for name, of in found[split, way].items()} for split in SPLITS},
            {
                split: {
                    name: paired_interval(of, found[split, "exact"][name], config.seed)
                    for name, of in found[split, way].items()
                }
                for split in SPLITS
            },
            float(np.mean([job.found["speeds"][way] for job in jobs])) if way in RETRIEVERS else None,
        )
        for way in ways
    ]
    users = {split: len(jobs[0].ranks[f"{split} exact"]) for split in SPLITS}
    return Finding(
        "retrievers",
        ("reg4rec-retrievers", 2),
        data.name,
        "retrievers",
        rows,
        [Table(rows, _columns(rows[0], split), f"{split}, {users[split]:,} users") for split in SPLITS],
        f"Means over {len(jobs)} fits of the same data; protocol {config.protocol}; differences to the row `exact` "
        f"with 95 % intervals of a bootstrap over users. Rows `theta` put items of the first {DEPTH} behind the others "
        "where the categories along their paths move by more.",
        {"study": asdict(config), "models": len(jobs), "search": asdict(recommenders[0].config)},
        versions(recommenders[0].device.type),
        {"users": users},
    ).save(out)


def _columns(row: Row, split: str) -> Columns:
    """Two columns for each metric of a split."""
    columns: dict[str, str | Callable[[Row], str]] = {"": "{row.way}"}
    for name in row.metrics[split]:
        columns[name] = f"{{row.metrics[{split}][{name}]:.4f}}"
        columns[f"{name} beyond exact"] = partial(_gain, split, name)
    return {**columns, "users per second": lambda row: f"{row.users_per_second:,.0f}" if row.users_per_second else ""}


def _gain(split: str, name: str, row: Row) -> str:
    mean, low, high = row.beyond_exact[split][name]
    return "" if row.way == "exact" else f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _rank(
    job: Job, recommender: Recommender, data: Dataset, config: RetrieverConfig, thetas: Sequence[float]
) -> dict[str, list[float]]:
    """Users per second of each retriever; the job keeps the ranks of all targets, by split and way."""
    speeds: dict[str, list[float]] = {way: [] for way in RETRIEVERS}
    ranks: dict[str, Ranks] = {}
    for split in SPLITS:
        asked = data, split, config.protocol, (10, DEPTH), config.max_users, config.seed
        for way in RETRIEVERS:
            (row,) = evaluate(recommender.with_search(retriever=way), *asked).rows
            ranks[f"{split} {way}"] = row.ranks_B
            speeds[way].append(row.users_per_second)
        if thetas:
            judged = _Judged(recommender.with_search(retriever="exact"), thetas)
            evaluate(judged, *asked)
            ranks |= {f"{split} theta {theta:g}": judged.ranks_of(theta) for theta in thetas}
    job.keep(**ranks)
    return speeds


class _Judged:
    """A ranker as `evaluate` takes it, which notes where the targets would be were inconsistent items put last."""

    name = "exact"

    def __init__(self, recommender: Recommender, thetas: Sequence[float]):
        self.recommender, self.trained_on, self.items = recommender, recommender.trained_on, recommender.items
        self._ranks: dict[float, list[Ranks]] = {theta: [] for theta in thetas}

    def ranks_of(self, theta: float) -> Ranks:
        """0-based, the depth where a target was not found."""
        return np.concatenate(self._ranks[theta])

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        return self.recommender.rank(histories, k, filter_seen)

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[np.float64]]]:
        ranked_BN = self.rank(histories, k, filter_seen)
        items_BN = torch.from_numpy(ranked_BN).long().to(self.recommender.device)
        _, js_BNS = self.recommender.reasons(histories, items_BN)
        moved_BN = js_BNS.amax(2).cpu().numpy()
        for theta, ranks in self._ranks.items():
            order_BN = np.argsort(moved_BN > theta, axis=1, kind="stable")
            ranks.append(hit_ranks(np.take_along_axis(ranked_BN, order_BN, 1), targets))
        return ranked_BN, {}


def _metrics(ranks: Sequence[Ranks]) -> dict[str, npt.NDArray[np.float64]]:
    """Of each user, the mean over the recommenders."""
    ranks_XB = np.stack(ranks)
    return {
        "Recall@10": (ranks_XB < 10).mean(0),
        "NDCG@10": gains(ranks_XB, 10).mean(0),
        f"Recall@{DEPTH}": (ranks_XB < DEPTH).mean(0),
    }
