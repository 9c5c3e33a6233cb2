"""Try settings of every method on validation, fit the best once a seed, read test once, and write the table."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reg4rec.checkpoints import training_seconds
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import ProtocolName, Ranker, Report, evaluate, rank_metrics
from reg4rec.experiments.compare_config import CompareConfig, TableProtocol
from reg4rec.experiments.comparison import DRAWN, Row, Try, beyond, draw_rows, reference_among, tables
from reg4rec.experiments.finding import Finding, Picture, versions
from reg4rec.experiments.job import Job, plain
from reg4rec.experiments.methods import Fit, Fitted, Method, OwnFit, with_own
from reg4rec.experiments.spaces import SPACES, Changes, changed, draw_changes
from reg4rec.progress import say
from reg4rec.search import SearchConfig
from reg4rec.settings import override
from reg4rec.storage import read_header
from reg4rec.writing import check_own

__all__ = ["compare"]

RESULT, TABLE = ("reg4rec-comparison-run", 3), ("reg4rec-comparison", 3)
OWN = ("fits", "results", "compare.*")
KS = (5, 10, 20, 50)
CHOSEN_BY = "ndcg@10"
BATCHES, CALLS, ITEMS = (1, 64), 20, 10
"""Of the calls that are timed."""


def compare(
    data: Dataset,
    config: CompareConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    own: Mapping[str, OwnFit] | None = None,
    **overrides: Any,
) -> Finding[Row]:
    """Run a comparison in a folder and write `compare.json`, `compare.md` and `compare.png` there.

    Fits and their results are saved in `out/fits` and `out/results`, named after all that decides them: what is
    finished is not run again, what was killed continues, and more methods, seeds, protocols or tries can be added
    later. The facts of the finding are the card of each protocol (`cards`), every setting that was tried (`tries`), and
    the changes that each method was fitted with in the end (`chosen`). InputError if a comparison of other data is in
    the folder. `overrides` replace fields of `config` by name, `seeds=(0,)` for example.

    own: methods of your own by name, further rows of the table (see `OwnFit`; docs/extend.md). Results are found again
    by the name: give a method that you changed another one.
    """
    config = override(config or CompareConfig(), overrides)
    out = Path(out)
    check_own(out, OWN)
    work, names = _Comparing(data, config, out, device, with_own(own or {})), [*config.methods, *(own or ())]
    settings: dict[str, Any] = {name: work.settings_of(name) for name in names}
    measured: dict[tuple[str, str], dict[int, _Measured]] = {
        (protocol, name): {seed: work.measured(name, settings[name], seed, protocol) for seed in work.seeds_of(name)}
        for name in names
        for protocol in config.protocols
    }
    rows = [_row(name, protocol, measured[protocol, name]) for protocol in config.protocols for name in names]
    reference = reference_among(config.methods)
    for row in rows:
        if row.method != reference:
            these, others = measured[row.protocol, row.method], measured[row.protocol, reference]
            mine, theirs = ({seed: one.metrics for seed, one in fits.items()} for fits in (these, others))
            row.beyond.update(beyond(mine, theirs, next(iter(these.values())).ranks["user_B"]))
    firsts = {protocol: next(iter(measured[protocol, config.methods[0]].values())) for protocol in config.protocols}
    cards: dict[str, Any] = {protocol: first.found["report"]["card"] for protocol, first in firsts.items()}
    earlier = _earlier(out, data)  # of other methods, which may have been added meanwhile
    tuned = {one.method for one in work.tries}
    tries = [*(Try(**one) for one in earlier["tries"] if one["method"] not in tuned), *work.tries]
    chosen = {**earlier["chosen"], **work.chosen}
    return Finding(
        "compare",
        TABLE,
        data.name,
        "methods compared",
        rows,
        tables(rows, cards, tries, reference),
        f"Mean ± sample standard deviation over the seeds; gains over {reference} are means over the seeds with 95 % "
        "intervals of a paired bootstrap over users.",
        plain(settings),
        versions(device),
        {"fingerprint": data.card["fingerprint"], "cards": cards, "tries": tries, "chosen": chosen},
        picture=Picture(4.2 * len(DRAWN), 2.9 * len(cards), partial(draw_rows, rows=rows)),
    ).save(out)


def _earlier(out: Path, data: Dataset) -> dict[str, Any]:
    """What the comparison in a folder found, empty without one; InputError if it is one on other data."""
    if not (out / "compare.json").exists():
        return {"chosen": {}, "tries": []}
    earlier = read_header(out / "compare.json", *TABLE)
    if earlier["fingerprint"] != data.card["fingerprint"]:
        raise InputError(f"{out} holds a comparison on other data ({earlier['dataset']}); choose another folder")
    return earlier


class _Comparing:
    """The settings that each method is fitted with, and the fits.

    `chosen` are the changes with which a method was best: here, or (without tries) in this folder before, or in
    `config.winners`. `tries` are all that were tried.
    """

    def __init__(self, data: Dataset, config: CompareConfig, out: Path, device: str, methods: Mapping[str, Method]):
        self.data, self.config, self.out, self.device, self.methods = data, config, out, device, methods
        self.winners = {} if config.winners is None else read_header(config.winners / "compare.json", *TABLE)["chosen"]
        self.won_here: dict[str, Changes] = _earlier(out, data)["chosen"]
        self.chosen: dict[str, Changes] = {}
        self.tries: list[Try] = []

    def settings_of(self, name: str) -> Any:
        """The settings that a method is fitted with, tuned now if that is asked for."""
        tuned, space = self.methods[name].tuned_as or name, SPACES[self.config.space]
        if self.config.winners is not None and space.get(tuned) and tuned not in self.winners:
            raise InputError(
                f"{self.config.winners} holds no settings of {tuned}; compare it there first, or leave winners out"
            )
        begin, before = self.methods[name].settings(self.config), self.winners.get(tuned, {})
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
        if not self.methods[name].seeded:
            return (0,)
        return self.config.seeds[:1] if name in self.config.first_seed_only else self.config.seeds

    def measured(self, name: str, settings: Any, seed: int, protocol: TableProtocol) -> "_Measured":
        """A fit whose test is read, for `final` the one that follows the fit by which validation chose."""
        first = self._measured(name, settings, seed, "standard" if protocol == "standard" else "filtered")
        if protocol != "final":
            return first.tested()
        epochs, search = (first.validated[fact] for fact in ("epochs", "search"))
        search = None if search is None else SearchConfig.from_json(search)
        return self._of(name, replace(first.fit, epochs=epochs, search=search)).tested()

    def _measured(self, name: str, settings: Any, seed: int, protocol: ProtocolName) -> "_Measured":
        return self._of(name, Fit(self.data, settings, self.out / "fits", seed, self.device, protocol))

    def _of(self, name: str, fit: Fit) -> "_Measured":
        return _Measured(name, self.methods[name], fit, self.out)


class _Measured(Job):
    """One fit of a method and what was measured of it."""

    def __init__(self, name: str, method: Method, fit: Fit, out: Path):
        super().__init__(out / "results", name, {"method": name, **fit.identity}, RESULT)
        self.method, self.fit = method, fit

    @cached_property
    def _fitted(self) -> Fitted:
        began = time.perf_counter()
        fitted = self.method.fit(self.fit)
        taken = time.perf_counter() - began
        self.found["parameters"] = fitted.parameters
        self.found["train_seconds"] = training_seconds(fitted.runs) if fitted.runs else taken
        self.found["epochs"] = fitted.epochs if self.fit.epochs is None else self.fit.epochs
        self.found["search"] = plain(fitted.search)
        return fitted

    def _evaluated(self, split: Literal["validation", "test"], **options: bool) -> Report:
        return evaluate(self._fitted.ranker, self.fit.data, split, self.fit.protocol, KS, **options)

    @property
    def validated(self) -> Mapping[str, Any]:
        """The facts of the fit and its report on all validation users; test is not read."""
        if self.fit.epochs is None:
            self.once("validation", lambda: self._evaluated("validation", heaviest=True).as_dict())
        return self.found

    def tested(self) -> "_Measured":
        """This, with its report on the test users, whose targets are read once."""
        if "report" not in self.validated:
            self.once("report", self._test)
        return self

    def _test(self) -> dict[str, Any]:
        report = self._evaluated("test", lists=True)
        self.keep(rank_B=report.rows[0].ranks_B, user_B=report.rows[0].users_B)
        self.found["latency_ms"] = latencies(self._fitted.ranker, self.fit.data)
        return report.as_dict()

    @cached_property
    def metrics(self) -> dict[str, npt.NDArray[np.float64]]:
        """What each test target adds to the metrics at 10."""
        return rank_metrics(self.ranks["rank_B"], (10,))


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


def latencies(ranker: Ranker, data: Dataset) -> dict[str, float]:
    """Milliseconds, by number of users, to rank 10 unseen items for that many test users: the median of 20 calls.

    Every call is for other users, the same for every ranker; one more call before them is not counted.
    """
    of_users, draw = data.cases("test").histories, np.random.default_rng(0)
    found = {}
    for batch in BATCHES:
        times = []
        for _ in range(CALLS + 1):
            histories = of_users.take(draw.choice(len(of_users), min(batch, len(of_users)), replace=False))
            began = time.perf_counter()
            ranker.rank(histories, ITEMS, True)
            times.append(1000 * (time.perf_counter() - began))
        found[str(batch)] = statistics.median(times[1:])
    return found
