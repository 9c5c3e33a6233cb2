"""Whether items are better ranked by their own score or found by paths, and whether CORP helps the former."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from reg4rec.data import Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName, evaluate, gains, hit_ranks
from reg4rec.experiments.compare import versions
from reg4rec.experiments.finding import Finding, check_study_folder, markdown_table
from reg4rec.recommend import Recommender
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.statistics import paired_interval

__all__ = ["RetrieverConfig", "RetrieverFindings", "Row", "retrievers"]

DEPTH = 50
SPLITS: tuple[Literal["validation", "test"], ...] = ("validation", "test")
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


@dataclass(frozen=True)
class RetrieverFindings(Finding):
    """All rows, the settings, and the machine and versions that ran them."""

    dataset: str
    rows: list[Row]
    users: dict[str, int]
    settings: dict[str, Any]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    FORMAT = "reg4rec-retrievers", 1

    @property
    def name(self) -> str:
        return "retrievers"

    def markdown(self) -> str:
        """A table a split, and what it was measured under."""
        parts = [f"# {self.dataset}: retrievers\n"]
        for split in SPLITS:
            names = list(self.rows[0].metrics[split])
            head = ["", *(title for name in names for title in (name, "beyond exact")), "users per second"]
            lines = [head]
            for row in self.rows:
                cells = [row.way]
                for name in names:
                    mean, low, high = row.beyond_exact[split][name]
                    is_exact = row.way == "exact"
                    cells += [
                        f"{row.metrics[split][name]:.4f}",
                        "" if is_exact else f"{mean:+.4f} ({low:+.4f} to {high:+.4f})",
                    ]
                lines.append([*cells, "" if row.users_per_second is None else f"{row.users_per_second:,.0f}"])
            parts += [f"## {split}, {self.users[split]:,} users\n", f"{markdown_table(lines)}\n"]
        study, models = self.settings["study"], self.settings["models"]
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts.append(
            f"Means over {models} fits of the same data; protocol {study['protocol']}; differences to "
            "the row `exact` with 95 % intervals of a bootstrap over users. Rows `theta` put items of the first "
            f"{DEPTH} behind the others where the categories along their paths move by more. {machine}."
        )
        return "\n".join(parts) + "\n"


def retrievers(
    recommenders: Sequence[Recommender],
    data: Dataset,
    config: RetrieverConfig | None = None,
    *,
    out: str | Path,
    **overrides: Any,
) -> RetrieverFindings:
    """Rank by paths and exactly with the same weights; writes `retrievers.md` and `retrievers.json`.

    Several recommenders of the same data, of other seeds say, are averaged user by user. `overrides` replace fields of
    `config`. InputError for models that do not score items.
    Paper: CORP, and item-level score, ours, D11.
    """
    config = override(config or RetrieverConfig(), overrides)
    check_study_folder(Path(out))
    if not recommenders or not all(one.model.scores_items for one in recommenders):
        raise InputError("a model without item scores has one retriever; give recommenders that score items")
    thetas = config.thetas if all(one.model.category_head is not None for one in recommenders) else ()
    ways = ["paths", "exact", *(f"theta {theta:g}" for theta in thetas)]
    ranks: dict[str, dict[str, list[Ranks]]] = {split: {way: [] for way in ways} for split in SPLITS}
    speeds: dict[Literal["paths", "exact"], list[float]] = {"paths": [], "exact": []}
    for recommender in recommenders:
        for split in SPLITS:
            asked = data, split, config.protocol, (10, DEPTH), config.max_users, config.seed
            for way, taken in speeds.items():
                (row,) = evaluate(recommender.with_search(retriever=way), *asked).rows
                ranks[split][way].append(row.ranks_B)
                taken.append(row.users_per_second)
            if thetas:
                judged = _Judged(recommender.with_search(retriever="exact"), thetas)
                evaluate(judged, *asked)
                for theta in thetas:
                    ranks[split][f"theta {theta:g}"].append(judged.ranks_of(theta))
    rows = [
        Row(
            way,
            {split: {name: float(of.mean()) for name, of in _metrics(ranks[split][way]).items()} for split in SPLITS},
            {split: _beyond(ranks[split][way], ranks[split]["exact"], config.seed) for split in SPLITS},
            float(np.mean(speeds[way])) if way in speeds else None,
        )
        for way in ways
    ]
    users: dict[str, int] = {split: len(ranks[split]["exact"][0]) for split in SPLITS}
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions(recommenders[0].device.type)}
    settings = {"study": asdict(config), "models": len(recommenders), "search": asdict(recommenders[0].config)}
    findings = RetrieverFindings(data.name, rows, users, settings, machine)
    findings.save(Path(out))
    return findings


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


def _beyond(ranks: Sequence[Ranks], exact: Sequence[Ranks], seed: int) -> dict[str, tuple[float, float, float]]:
    values, than = _metrics(ranks), _metrics(exact)
    return {name: paired_interval(values[name], than[name], seed) for name in values}
