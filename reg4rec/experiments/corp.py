"""What CORP does to quality and costs in time, over its threshold theta."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.autograd.profiler import profile, record_function

from reg4rec.data import Dataset, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.experiments.compare import versions
from reg4rec.experiments.corp_finding import CorpFindings, Row
from reg4rec.experiments.finding import check_study_folder
from reg4rec.recommend import Recommender
from reg4rec.search import SearchConfig
from reg4rec.search.beam import CORP_REGION
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings, override
from reg4rec.storage import new_header, read_header, write_header

__all__ = ["CorpConfig", "corp", "rows_decoded"]

FORMAT, VERSION = "reg4rec-corp-measured", 2
SPLITS: tuple[Literal["validation", "test"], ...] = ("validation", "test")
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


def corp(
    recommender: Recommender, data: Dataset, config: CorpConfig | None = None, *, out: str | Path, **overrides: Any
) -> CorpFindings:
    """Measure a recommender with CORP off and at every theta; writes `corp.md`, `corp.json` and `corp.png`.

    Quality is that of `evaluate`, protocol `standard`, on the users of validation and of test. `measured.json` keeps
    what is finished: started again, the study goes on after it, and InputError where it is of another recommender,
    dataset or setting. `overrides` replace fields of `config`.
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
    job = {
        "dataset": data.card["fingerprint"],
        "recommender": recommender.fingerprint(),
        "device": recommender.device.type,
        "dtype": str(recommender.dtype).removeprefix("torch."),
        **asdict(config),
        "thetas": list(config.thetas),
    }
    path = out / "measured.json"
    measured = _opened(path, job)
    for split in SPLITS:
        for name, chosen in settings.items():
            if name not in measured[split]:
                report = evaluate(chosen, data, split, "standard", (K,), config.max_users, config.seed)
                row, users = report.rows[0], report.card["users"]
                measured[split][name] = {"users": users, **row.metrics, **row.extra}
                write_header(path, measured)
    if not measured["timing"]:
        measured["timing"] = _timed(settings, _timed_histories(data, config), config)
        write_header(path, measured)
    rows = [
        Row(
            name,
            chosen.config.prune_threshold,
            {split: measured[split][name] for split in SPLITS},
            rows_decoded(chosen.config, recommender.model.config.num_codebooks),
            **measured["timing"]["settings"][name],
        )
        for name, chosen in settings.items()
    ]
    machine = {"cores": os.cpu_count(), "load": measured["timing"]["load"], **versions(recommender.device.type)}
    findings = CorpFindings(data.name, rows, {"study": asdict(config), "search": asdict(recommender.config)}, machine)
    findings.save(out)
    return findings


def rows_decoded(config: SearchConfig, num_codebooks: int) -> int:
    """Decoder rows of a search: 1 + M (W + spares) a user with CORP, 1 + (M - 1) W without."""
    steps, beams = min(config.num_steps or num_codebooks, num_codebooks), config.num_beams
    return 1 + (steps - 1) * beams if config.prune_threshold is None else 1 + steps * (beams + config.num_spares)


def _opened(path: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What was measured before, InputError where that was another job."""
    if not path.exists():
        return new_header(FORMAT, VERSION, job=job, timing={}, **{split: {} for split in SPLITS})
    found = read_header(path, FORMAT, VERSION)
    differing = sorted(name for name, value in job.items() if found.get("job", {}).get(name) != value)
    if differing:
        raise InputError(
            f"{path.parent} holds a study with other settings ({', '.join(differing)} differ); choose another folder"
        )
    return found


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
