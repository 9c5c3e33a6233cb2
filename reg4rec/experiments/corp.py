"""What CORP does to quality and costs in time, over its threshold theta."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch.autograd.profiler import profile, record_function

from reg4rec.data import Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.experiments.finding import SPLITS, Columns, Finding, Picture, Table, check_study_folder, ranking, versions
from reg4rec.experiments.job import Job
from reg4rec.recommend import Recommender
from reg4rec.search import SearchConfig
from reg4rec.search.beam import CORP_REGION
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CorpConfig", "Row", "corp", "rows_decoded"]

SHOWN = {"recall@10": "Recall@10", "ndcg@10": "NDCG@10"}
PAPER_THETA = 0.06
K, WHOLE = 10, "reg4rec.search"

Clock = Literal["wall", "processor"]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class CorpConfig:
    """A study of CORP. All else about the search is as the recommender has it."""

    thetas: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1)
    """thresholds (nats) to measure beside CORP off"""
    num_steps: int | None = None
    """tokens that a path decodes, None for the recommender's own setting"""
    max_users: int | None = None
    """evaluate a random sample of this many users of each split"""
    timed_users: int = 512
    """test users that one timed search is for"""
    repeats: int = 7
    """timed searches of every setting, in turn with those of the others; the medians are kept"""
    clock: Clock = "wall"
    """processor counts what the process itself takes, on all its threads: for machines with other work on them"""
    seed: int = 0
    """seed of the samples"""

    def __post_init__(self) -> None:
        distinct = len(set(self.thetas)) == len(self.thetas)
        check_settings(
            self,
            ("thetas", bool(self.thetas) and distinct and all(t >= 0 for t in self.thetas), "distinct, from 0 up"),
            ("num_steps", self.num_steps is None or self.num_steps >= 1, "1 or more, or None"),
            ("max_users", self.max_users is None or self.max_users >= 1, "1 or more, or None"),
            ("timed_users", self.timed_users >= 1, "1 or more"),
            ("repeats", self.repeats >= 1, "1 or more"),
            ("clock", self.clock in get_args(Clock), f"one of {get_args(Clock)}"),
            ("seed", self.seed in SEEDS, SEED_RANGE),
        )


@dataclass(frozen=True)
class Row:
    """One setting of the search. `measured` holds what `evaluate` found, by split; `rows_decoded` are a user's.

    `times_off` is the search's time over that with CORP off in the same round; `checking` the share of it that went
    into divergences and masks, None where it was not measured.
    """

    setting: str
    theta: float | None
    measured: dict[str, dict[str, float]]
    rows_decoded: int
    ms_per_user: float
    times_off: float
    checking: float | None


COLUMNS: Columns = {
    "theta": "{row.setting}",
    **{
        f"{split} {title}": f"{{row.measured[{split}][{metric}]:.4f}}"
        for split in SPLITS
        for metric, title in SHOWN.items()
    },
    "pruned": "{row.measured[test][paths_pruned]:.1f}",
    "fallbacks": "{row.measured[test][fallbacks]:.3f}",
    "rows": "{row.rows_decoded}",
    "ms": "{row.ms_per_user:.2f}",
    "times off": "{row.times_off:.2f}",
    "checking": lambda row: "" if row.checking is None else f"{row.checking:.1%}",
}


def corp(
    recommender: Recommender, data: Dataset, config: CorpConfig | None = None, *, out: str | Path, **overrides: Any
) -> Finding[Row]:
    """Measure a recommender with CORP off and at every theta; writes `corp.md`, `corp.json` and `corp.png`.

    Quality is that of `evaluate`, protocol `standard`, on the users of validation and of test. What is finished is
    saved in `out/results`: started again, the study continues after it. `overrides` replace fields of `config`.
    Paper: CORP, stated (theta), D10.
    """
    config, out = override(config or CorpConfig(), overrides), Path(out)
    check_study_folder(out)
    if recommender.model.category_head is None:
        raise InputError("the recommender predicts no categories, so CORP has nothing to compare")
    recommender = recommender.with_search(retriever="paths")
    if config.num_steps is not None:
        recommender = recommender.with_search(num_steps=config.num_steps)
    thetas = {"off": None, **{f"{theta:g}": theta for theta in config.thetas}}
    settings = {name: recommender.with_search(prune_threshold=theta) for name, theta in thetas.items()}
    job = Job(out / "results", "corp", ranking(recommender, data) | asdict(config))
    measured = {
        (split, name): job.once(f"{split} {name}", partial(_quality, chosen, data, split, config))
        for split in SPLITS
        for name, chosen in settings.items()
    }
    timing = job.once("timing", lambda: _timed(settings, _timed_histories(data, config), config))
    rows = [
        Row(
            name,
            chosen.config.prune_threshold,
            {split: measured[split, name] for split in SPLITS},
            rows_decoded(chosen.config, recommender.model.config.num_codebooks),
            **timing["settings"][name],
        )
        for name, chosen in settings.items()
    ]
    users = ", ".join(f"{measured[split, 'off']['users']:,} {split} users" for split in SPLITS)
    search = asdict(recommender.config)
    common = ", ".join(f"{name} {value}" for name, value in search.items() if name != "prune_threshold")
    return Finding(
        "corp",
        ("reg4rec-corp", 3),
        data.name,
        "CORP over theta",
        rows,
        [Table(rows, COLUMNS, about=f"{users}; search: {common}")],
        "Protocol standard, all items ranked. pruned, fallbacks, rows decoded and ms are those of a user of test. "
        f"Times: {config.clock} clock, {config.timed_users} users together, medians of {config.repeats} rounds; "
        "checking: divergences and masks.",
        {"study": asdict(config), "search": search},
        {"load": timing["load"], **versions(recommender.device.type)},
        picture=Picture(10.5, 3.4, partial(_draw, rows=rows)),
    ).save(out)


def rows_decoded(config: SearchConfig, num_codebooks: int) -> int:
    """Decoder rows of a search: 1 + M (W + spares) a user with CORP, 1 + (M - 1) W without."""
    steps, beams = min(config.num_steps or num_codebooks, num_codebooks), config.num_beams
    return 1 + (steps - 1) * beams if config.prune_threshold is None else 1 + steps * (beams + config.num_spares)


def _quality(recommender: Recommender, data: Dataset, split: Literal["validation", "test"], config: CorpConfig) -> Any:
    report = evaluate(recommender, data, split, "standard", (K,), config.max_users, config.seed)
    return {"users": report.card["users"], **report.rows[0].metrics, **report.rows[0].extra}


def _timed_histories(data: Dataset, config: CorpConfig) -> Sequences:
    histories = data.cases("test").histories
    chosen = np.random.default_rng(config.seed).permutation(len(histories))[: config.timed_users]
    return histories.take(np.sort(chosen))


def _timed(settings: dict[str, Recommender], histories: Sequences, config: CorpConfig) -> dict[str, Any]:
    """Medians over rounds in which every setting searches once: time a user, times CORP off; and CORP's checks."""
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    clock, load = CLOCKS[config.clock], [round(os.getloadavg()[0], 2)]
    for chosen in settings.values():
        _search(chosen, histories)
    for _ in range(config.repeats):
        for name, chosen in settings.items():
            began = clock()
            _search(chosen, histories)
            seconds[name].append(clock() - began)
    return {
        "load": [*load, round(os.getloadavg()[0], 2)],
        "settings": {
            name: {
                "ms_per_user": 1e3 * statistics.median(taken) / len(histories),
                "times_off": statistics.median(t / off for t, off in zip(taken, seconds["off"], strict=True)),
                "checking": _checking(settings[name], histories, config.repeats),
            }
            for name, taken in seconds.items()
        },
    }


def _search(recommender: Recommender, histories: Sequences) -> None:
    for _ in recommender.search(histories, K, False):
        pass
    if recommender.device.type == "cuda":
        torch.cuda.synchronize()


def _checking(recommender: Recommender, histories: Sequences, repeats: int) -> float | None:
    """The share of searches' time in `js_divergence` and what keeps or drops paths by it outside of `beam_step`."""
    if recommender.device.type != "cpu":
        return None
    with profile() as profiled:
        for _ in range(repeats):
            with record_function(WHOLE):
                _search(recommender, histories)
    taken = {event.key: event.cpu_time_total for event in profiled.key_averages()}
    return float(taken.get(CORP_REGION, 0.0) / taken[WHOLE])


def _draw(figure: "Figure", rows: list[Row]) -> None:
    panels = figure.subplots(1, 3)
    off, *others = sorted(rows, key=lambda row: -1 if row.theta is None else row.theta)
    thetas = [row.theta for row in others]
    for panel, (metric, title) in zip(panels, SHOWN.items(), strict=False):
        for number, split in enumerate(SPLITS):
            color = f"C{number}"
            panel.plot(thetas, [row.measured[split][metric] for row in others], "o-", color=color, label=split)
            panel.axhline(off.measured[split][metric], color=color, linestyle="--", label=f"{split}, off")
        panel.set_title(title)
    panels[2].plot(thetas, [row.times_off for row in others], "o-", color="C2")
    panels[2].axhline(1, color="C2", linestyle="--")
    panels[2].set_ylim(0, 1.1 * max(1.0, *(row.times_off for row in others)))
    panels[2].set_title("search time, times CORP off")
    for panel in panels:
        panel.axvline(PAPER_THETA, color="0.6", linestyle=":", linewidth=1, label="the paper's theta")
        panel.set_xlabel("theta (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
