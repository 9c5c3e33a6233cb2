"""Fit every method once a seed, evaluate each fit under every protocol, and write the table."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import reg4rec
from reg4rec.checkpoints import newest_progress, training_seconds
from reg4rec.comparison.config import CompareConfig, ProtocolName
from reg4rec.comparison.latency import BATCHES, latencies
from reg4rec.comparison.methods import METHODS, Job
from reg4rec.comparison.table import Comparison, Row
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.evaluation import evaluate
from reg4rec.settings import differences, override
from reg4rec.storage import new_header, read_header, write_header
from reg4rec.writing import check_own

__all__ = ["compare", "versions"]

FORMAT, VERSION = "reg4rec-comparison-run", 2
OWN = ("runs", "compare.*")


def compare(
    data: Dataset,
    config: CompareConfig | None = None,
    *,
    out: str | Path,
    device: str = "auto",
    **overrides: Any,
) -> Comparison:
    """Run a comparison in a folder and write `compare.json`, `compare.md` and `compare.png` there.

    Each fit has its own folder `out/runs/METHOD/seed-N`; one that is finished is not run again, one that was killed
    goes on. More seeds, methods or protocols can so be added later. InputError if a run there has other settings.
    `overrides` replace fields of `config` by name, `seeds=(0,)` for example.
    """
    config = override(config or CompareConfig(), overrides)
    out = Path(out)
    check_own(out, OWN)
    results: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for name in config.methods:
        for seed in config.seeds if METHODS[name].seeded else (0,):
            job = Job(data, config, out / "runs" / name / f"seed-{seed}", seed, device)
            for protocol, result in _results(name, job).items():
                results.setdefault((protocol, name), {})[seed] = result
    rows = [_row(name, protocol, results[protocol, name]) for protocol in config.protocols for name in config.methods]
    cards: dict[str, Any] = {
        protocol: next(iter(results[protocol, config.methods[0]].values()))["reports"][protocol]["card"]
        for protocol in config.protocols
    }
    settings: dict[str, Any] = {name: _plain(METHODS[name].settings(config)) for name in config.methods}
    comparison = Comparison(data.name, rows, cards, settings, versions(device))
    comparison.save(out)
    return comparison


def _results(name: str, job: Job) -> dict[str, dict[str, Any]]:
    """What each protocol needs to know of one method and seed: the fit, and for `final` the one that follows it."""
    protocols = job.config.protocols
    fit = _result(name, job, [p for p in protocols if p != "final"])
    found: dict[str, dict[str, Any]] = dict.fromkeys(protocols, fit)
    if "final" in protocols:
        folder = job.out.with_name(f"{job.out.name}-final")
        second = replace(job, out=folder, epochs=fit["best_epochs"], first=job.out)
        found["final"] = _result(name, second, ["final"])
    return found


def _result(name: str, job: Job, protocols: Sequence[ProtocolName]) -> dict[str, Any]:
    """One fit and its reports, from the run folder; fitted and evaluated now where that was not done before."""
    method, path = METHODS[name], job.out / "result.json"
    identity = {"dataset": job.data.card["fingerprint"], "seed": job.seed, "epochs": job.epochs}
    found = _read_result(path, identity | {"settings": _plain(method.settings(job.config))})
    missing = [protocol for protocol in protocols if protocol not in found["reports"]]
    if not missing and "latency_ms" in found:
        return found
    fitted = method.fit(job)
    found |= {
        "parameters": fitted.parameters,
        "train_seconds": training_seconds(path.parent for path in job.out.rglob("config.json")),
        "best_epochs": _best_epochs(job.out / method.model_run),
        "latency_ms": latencies(fitted.ranker, job.data),
    }
    for protocol in missing:
        report = evaluate(fitted.ranker, job.data, "test", "standard" if protocol == "standard" else "filtered")
        found["reports"][protocol] = report.as_dict()
    write_header(path, found)
    return found


def _read_result(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return new_header(FORMAT, VERSION, **identity, reports={})
    found = read_header(path, FORMAT, VERSION)
    differing = [place for name, value in identity.items() for place in differences(name, found.get(name), value)]
    if differing:
        raise InputError(
            f"{path.parent} holds a run with other {', '.join(differing)}; choose another folder or remove that run"
        )
    return found


def _best_epochs(run: Path) -> int:
    """Epochs after which the kept weights of a run stood, validation and all; 0 for a method without a loop."""
    progress = newest_progress(run)
    return 0 if progress is None else progress.best_epoch + 1


def _row(name: str, protocol: str, results: dict[int, dict[str, Any]]) -> Row:
    found = [result["reports"][protocol]["rows"][0] for result in results.values()]
    return Row(
        method=name,
        protocol=protocol,
        trained_on=found[0]["trained_on"],
        seeds=list(results),
        metrics={metric: [row["metrics"][metric] for row in found] for metric in found[0]["metrics"]},
        users_per_second=[row["users_per_second"] for row in found],
        train_seconds=[result["train_seconds"] for result in results.values()],
        latency_ms={batch: [r["latency_ms"][batch] for r in results.values()] for batch in map(str, BATCHES)},
        epochs=[result["best_epochs"] for result in results.values()],
        parameters=next(iter(results.values()))["parameters"],
    )


def _plain(settings: Any) -> Any:
    """Settings as JSON gives them back."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return _plain(asdict(settings))
    if isinstance(settings, dict):
        return {name: _plain(value) for name, value in settings.items()}
    return [_plain(value) for value in settings] if isinstance(settings, list | tuple) else settings


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
