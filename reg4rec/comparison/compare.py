"""Try settings of every method on validation, fit the best once a seed, read test once, and write the table."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reg4rec
from reg4rec.checkpoints import training_seconds
from reg4rec.comparison.config import CompareConfig, ProtocolName
from reg4rec.comparison.latency import BATCHES, latencies
from reg4rec.comparison.methods import METHODS, Fitted, Job, plain
from reg4rec.comparison.spaces import SPACES, Changes, changed, draw_changes
from reg4rec.comparison.table import Comparison, Row, Try, beyond
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName as Asked
from reg4rec.evaluation import evaluate
from reg4rec.infer import SearchConfig
from reg4rec.progress import say
from reg4rec.run import digest_of
from reg4rec.settings import override
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors
from reg4rec.writing import check_own

__all__ = ["compare", "versions"]

FORMAT, VERSION = "reg4rec-comparison-run", 3
OWN = ("fits", "results", "compare.*")
KS = (5, 10, 20, 50)
CHOSEN_BY = "ndcg@10"


def compare(
    data: Dataset,
    config: CompareConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> Comparison:
    """Run a comparison in a folder and write `compare.json`, `compare.md` and `compare.png` there.

    Fits and their results lie in `out/fits` and `out/results`, named after all that decides them: what is finished is
    not run again, what was killed goes on, and more methods, seeds, protocols or tries can be added later. InputError
    if a comparison of other data lies there. `overrides` replace fields of `config` by name, `seeds=(0,)` for example.
    """
    config = override(config or CompareConfig(), overrides)
    out = Path(out)
    check_own(out, OWN)
    earlier = _earlier(out, data)
    winners = {} if config.winners is None else Comparison.read(config.winners).chosen
    tuned_here = {} if earlier is None or config.tries > 1 else earlier.chosen
    chosen: dict[str, Changes] = {}
    tries: list[Try] = []
    measured: dict[tuple[str, str], dict[int, _Measured]] = {}
    settings: dict[str, Any] = {}
    for name in config.methods:
        method = METHODS[name]
        tuned = method.tuned_as or name
        if config.winners is not None and SPACES[config.space].get(tuned) and tuned not in winners:
            raise InputError(
                f"{config.winners} holds no settings of {tuned}; compare it there first, or leave winners out"
            )
        before = winners.get(tuned, {})
        begin = changed(method.settings(config), before) if before else method.settings(config)
        changes = _tune(tuned, begin, data, config, out, device, tries) or tuned_here.get(tuned, {})
        own = changed(begin, changes) if changes else begin
        settings[name] = plain(own)
        chosen[tuned] = {**before, **changes}
        seeds = config.seeds[:1] if name in config.first_seed_only else config.seeds
        for seed in seeds if method.seeded else (0,):
            for protocol in config.protocols:
                done = _result(name, own, data, out, seed, device, protocol)
                measured.setdefault((protocol, name), {})[seed] = done
    rows = [_row(name, protocol, measured[protocol, name]) for protocol in config.protocols for name in config.methods]
    for protocol in config.protocols:
        ranks: dict[str, Any] = {
            name: {seed: one.ranks for seed, one in measured[protocol, name].items()} for name in config.methods
        }
        users_B = next(iter(measured[protocol, config.methods[0]].values())).users_B
        for row in rows:
            if row.protocol == protocol:
                row.beyond.update(beyond(ranks, users_B, row.method, config.methods))
    cards: dict[str, Any] = {
        protocol: next(iter(measured[protocol, config.methods[0]].values())).found["report"]["card"]
        for protocol in config.protocols
    }
    if (earlier := _earlier(out, data)) is not None:  # of other methods, which may have been added meanwhile
        chosen = {**earlier.chosen, **chosen}
        tries = [*(one for one in earlier.tries if one.method not in {own.method for own in tries}), *tries]
    comparison = Comparison(data.name, rows, cards, settings, versions(device), data.card["fingerprint"], tries, chosen)
    comparison.save(out)
    return comparison


def _earlier(out: Path, data: Dataset) -> Comparison | None:
    """The comparison that a folder holds; InputError if it is one on other data."""
    if not (out / "compare.json").exists():
        return None
    earlier = Comparison.read(out)
    if earlier.fingerprint != data.card["fingerprint"]:
        raise InputError(f"{out} holds a comparison on other data ({earlier.dataset}); choose another folder")
    return earlier


def _tune(
    name: str, begin: Any, data: Dataset, config: CompareConfig, out: Path, device: str, tries: list[Try]
) -> Changes:
    """The changes of `begin` that are best on validation, with the first seed; `tries` gets a line for each.

    They are measured under the protocol `filtered` unless the comparison has `standard` alone.
    """
    already = [one for one in tries if one.method == name]
    if config.tries > 1 and not already:
        protocol: Asked = "standard" if set(config.protocols) == {"standard"} else "filtered"
        seed = config.seeds[0] if METHODS[name].seeded else 0
        for number, changes in enumerate(draw_changes(SPACES[config.space].get(name, {}), config.tries, begin)):
            own = changed(begin, changes) if changes else begin
            job = Job(data, own, out / "fits", seed, device, protocol)
            found = _Measured(name, job, out).validated
            value = found["validation"]["rows"][0]["metrics"]
            already.append(Try(name, protocol, changes, value, found["epochs"], found["train_seconds"]))
            say(f"{name}, try {number + 1}: {changes or 'as configured'}: {CHOSEN_BY} {value[CHOSEN_BY]:.4f}")
        tries += already
    return max(already, key=lambda one: one.validation[CHOSEN_BY]).changes if already else {}


def _result(
    name: str, settings: Any, data: Dataset, out: Path, seed: int, device: str, protocol: ProtocolName
) -> "_Measured":
    asked: Asked = "standard" if protocol == "standard" else "filtered"
    first = _Measured(name, Job(data, settings, out / "fits", seed, device, asked), out)
    if protocol != "final":
        first.test()
        return first
    validated = first.validated
    search = validated["search"]
    job = replace(
        first.job,
        epochs=validated["epochs"],
        search=None if search is None else SearchConfig.from_json(search),
    )
    final = _Measured(name, job, out)
    final.test()
    return final


class _Measured:
    """One fit of a method and what was measured of it, read back from its folder in `results` where it was before."""

    def __init__(self, name: str, job: Job, out: Path):
        self.name, self.job = name, job
        identity = {"method": name, **job.identity}
        self.path = out / "results" / f"{name}-{digest_of(identity)}" / "result.json"
        self.found = read_header(self.path, FORMAT, VERSION) if self.path.exists() else new_header(FORMAT, VERSION)
        self.found["decided_by"] = plain(identity)

    @cached_property
    def _fitted(self) -> Fitted:
        fitted = METHODS[self.name].fit(self.job)
        self.found |= {
            "parameters": fitted.parameters,
            "train_seconds": training_seconds(fitted.runs),
            "epochs": fitted.epochs if self.job.epochs is None else self.job.epochs,
            "search": plain(fitted.search),
        }
        return fitted

    @property
    def validated(self) -> Mapping[str, Any]:
        """The facts of the fit and its report on all validation users; test is not read."""
        if "validation" not in self.found and self.job.epochs is None:
            report = evaluate(self._fitted.ranker, self.job.data, "validation", self.job.protocol, KS, heaviest=True)
            self._write(validation=report.as_dict())
        return self.found

    def test(self) -> None:
        """Read the test users' targets, once."""
        if "report" in self.found:
            return
        _ = self.validated
        report = evaluate(self._fitted.ranker, self.job.data, "test", self.job.protocol, KS, lists=True)
        row = report.rows[0]
        found = {"rank_B": torch.from_numpy(row.ranks_B), "user_B": torch.from_numpy(row.users_B)}
        write_tensors(self.path.with_name("ranks.safetensors"), found)
        self._write(report=report.as_dict(), latency_ms=latencies(self._fitted.ranker, self.job.data))

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {name: t.numpy() for name, t in read_tensors(self.path.with_name("ranks.safetensors")).items()}

    @property
    def ranks(self) -> "np.ndarray[Any, Any]":
        """The 0-based ranks of the test targets."""
        return self._tensors["rank_B"]

    @property
    def users_B(self) -> "np.ndarray[Any, Any]":  # noqa: N802
        """The users of the test targets (rows)."""
        return self._tensors["user_B"]

    def _write(self, **more: Any) -> None:
        self.found |= more
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files = [name for name in ("ranks.safetensors",) if self.path.with_name(name).exists()]
        write_header(self.path, self.found, files)


def _row(name: str, protocol: str, measured: Mapping[int, _Measured]) -> Row:
    found = [one.found for one in measured.values()]
    reports = [one["report"]["rows"][0] for one in found]
    return Row(
        method=name,
        protocol=protocol,
        trained_on=reports[0]["trained_on"],
        seeds=list(measured),
        metrics=_by_name([report["metrics"] for report in reports]),
        errors=_by_name([report["errors"] for report in reports]),
        lists=_by_name([report["lists"] for report in reports]),
        groups={group: _by_name([r["groups"][group] for r in reports]) for group in reports[0]["groups"]},
        users_per_second=[report["users_per_second"] for report in reports],
        train_seconds=[one["train_seconds"] for one in found],
        latency_ms={batch: [one["latency_ms"][batch] for one in found] for batch in map(str, BATCHES)},
        epochs=[one["epochs"] for one in found],
        parameters=found[0]["parameters"],
    )


def _by_name(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [values[name] for values in of_seeds] for name in of_seeds[0]}


def versions(device: str) -> dict[str, Any]:
    """What a result was measured with."""
    on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
    return {
        "reg4rec": reg4rec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
    }
