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
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName, evaluate, rank_metrics
from reg4rec.experiments.compare_config import CompareConfig, TableProtocol
from reg4rec.experiments.comparison import Comparison, Row, Try, beyond, reference_among
from reg4rec.experiments.latency import BATCHES, latencies
from reg4rec.experiments.methods import METHODS, Fitted, Job, plain
from reg4rec.experiments.spaces import SPACES, Changes, changed, draw_changes
from reg4rec.progress import say
from reg4rec.run import digest_of
from reg4rec.search import SearchConfig
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
    work = _Comparing(data, config, out, device)
    settings: dict[str, Any] = {name: work.settings_of(name) for name in config.methods}
    measured: dict[tuple[str, str], dict[int, _Measured]] = {
        (protocol, name): {seed: work.measured(name, settings[name], seed, protocol) for seed in work.seeds_of(name)}
        for name in config.methods
        for protocol in config.protocols
    }
    rows = [_row(name, protocol, measured[protocol, name]) for protocol in config.protocols for name in config.methods]
    reference = reference_among(config.methods)
    for row in rows:
        if row.method != reference:
            own, other = measured[row.protocol, row.method], measured[row.protocol, reference]
            mine, theirs = ({seed: one.metrics for seed, one in fits.items()} for fits in (own, other))
            row.beyond.update(beyond(mine, theirs, next(iter(own.values())).users_B))
    firsts = {protocol: next(iter(measured[protocol, config.methods[0]].values())) for protocol in config.protocols}
    cards: dict[str, Any] = {protocol: first.found["report"]["card"] for protocol, first in firsts.items()}
    chosen, tries = work.chosen, work.tries
    if (earlier := _earlier(out, data)) is not None:  # of other methods, which may have been added meanwhile
        chosen = {**earlier.chosen, **chosen}
        tries = [*(one for one in earlier.tries if one.method not in {own.method for own in tries}), *tries]
    shown = {name: plain(own) for name, own in settings.items()}
    comparison = Comparison(data.name, rows, cards, shown, versions(device), data.card["fingerprint"], tries, chosen)
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


class _Comparing:
    """A comparison on its way: the settings that each method is fitted with, and the fits.

    `chosen` are the changes of its settings by which a method won, here, or in the folder before without tries, or in
    `config.winners`; `tries` all that was tried.
    """

    def __init__(self, data: Dataset, config: CompareConfig, out: Path, device: str):
        self.data, self.config, self.out, self.device = data, config, out, device
        earlier = _earlier(out, data)
        self.winners = {} if config.winners is None else Comparison.read(config.winners).chosen
        self.won_here = {} if earlier is None or config.tries > 1 else earlier.chosen
        self.chosen: dict[str, Changes] = {}
        self.tries: list[Try] = []

    def settings_of(self, name: str) -> Any:
        """The settings that a method is fitted with, tuned now if that is asked for."""
        tuned, space = METHODS[name].tuned_as or name, SPACES[self.config.space]
        if self.config.winners is not None and space.get(tuned) and tuned not in self.winners:
            raise InputError(
                f"{self.config.winners} holds no settings of {tuned}; compare it there first, or leave winners out"
            )
        begin, before = METHODS[name].settings(self.config), self.winners.get(tuned, {})
        begin = changed(begin, before) if before else begin
        changes = self._tuned(tuned, begin) if self.config.tries > 1 else self.won_here.get(tuned, {})
        self.chosen[tuned] = {**before, **changes}
        return changed(begin, changes) if changes else begin

    def _tuned(self, name: str, begin: Any) -> Changes:
        """The changes that are best on validation, with the first seed.

        They are measured under the protocol `filtered` unless the comparison has `standard` alone.
        """
        tried = [one for one in self.tries if one.method == name]
        if not tried:
            protocol: ProtocolName = "standard" if set(self.config.protocols) == {"standard"} else "filtered"
            drawn = draw_changes(SPACES[self.config.space].get(name, {}), self.config.tries, begin)
            for number, changes in enumerate(drawn, start=1):
                own = changed(begin, changes) if changes else begin
                found = self._measured(name, own, self.seeds_of(name)[0], protocol).validated
                value = found["validation"]["rows"][0]["metrics"]
                tried.append(Try(name, protocol, changes, value, found["epochs"], found["train_seconds"]))
                say(f"{name}, try {number}: {changes or 'as given'}: {CHOSEN_BY} {value[CHOSEN_BY]:.4f}")
            self.tries += tried
        return max(tried, key=lambda one: one.validation[CHOSEN_BY]).changes

    def seeds_of(self, name: str) -> tuple[int, ...]:
        if not METHODS[name].seeded:
            return (0,)
        return self.config.seeds[:1] if name in self.config.first_seed_only else self.config.seeds

    def measured(self, name: str, settings: Any, seed: int, protocol: TableProtocol) -> "_Measured":
        """A fit whose test is read, for `final` the one that follows the fit by which validation chose."""
        first = self._measured(name, settings, seed, "standard" if protocol == "standard" else "filtered")
        if protocol != "final":
            first.test()
            return first
        epochs, search = (first.validated[fact] for fact in ("epochs", "search"))
        search = None if search is None else SearchConfig.from_json(search)
        final = _Measured(name, replace(first.job, epochs=epochs, search=search), self.out)
        final.test()
        return final

    def _measured(self, name: str, settings: Any, seed: int, protocol: ProtocolName) -> "_Measured":
        return _Measured(name, Job(self.data, settings, self.out / "fits", seed, self.device, protocol), self.out)


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

    @cached_property
    def metrics(self) -> "dict[str, np.ndarray[Any, Any]]":
        """What each test target adds to the metrics at 10."""
        return rank_metrics(self._tensors["rank_B"], (10,))

    @property
    def users_B(self) -> "np.ndarray[Any, Any]":  # noqa: N802
        """The users of the test targets (rows)."""
        return self._tensors["user_B"]

    def _write(self, **more: Any) -> None:
        self.found |= more
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files = [name for name in ("ranks.safetensors",) if self.path.with_name(name).exists()]
        write_header(self.path, self.found, files)


def _row(name: str, protocol: str, measured: Mapping[int, "_Measured"]) -> Row:
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
