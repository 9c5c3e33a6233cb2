"""Diagnosis of a run of any stage, from its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reg4rec.checkpoints import read_metrics, read_settings, run_state
from reg4rec.errors import InputError
from reg4rec.storage import read_json
from reg4rec.tokenizer.config import Floors
from reg4rec.tokenizer.health import Health
from reg4rec.tokenizer.verdict import collapse_reason, health_warnings
from reg4rec.train.symptoms import align_symptoms, pretrain_symptoms
from reg4rec.train.validation import OVERLAP

__all__ = ["Diagnosis", "diagnose"]


STAGES = ("tokenizer", "pretrain", "align")


@dataclass(frozen=True)
class Diagnosis:
    """`findings`: a sentence for each failure of a run, with its remedy; empty for a healthy run."""

    stage: str
    state: str
    """finished, failed, or the last known step of the run"""
    findings: list[str]


def diagnose(run: str | Path) -> Diagnosis:
    """Diagnose the run folder of a tokenizer, a pre-training or an alignment. InputError for any other folder."""
    run = Path(run)
    settings = read_settings(run)
    stage = settings.get("stage", "tokenizer")
    if stage not in STAGES:
        raise InputError(f"{run} is a run of {stage}; the doctor only knows runs of {', '.join(STAGES)}")
    rows = read_metrics(run)
    epochs, steps = ([row for row in rows if ("epoch" in row) == whole] for whole in (True, False))
    failure = run / "failure.json"
    findings = [f"the run stopped itself: {read_json(failure)['reason']}"] if failure.exists() else []
    if stage == "tokenizer":
        findings += _of_tokenizer(run / "tokenizer", settings)
    elif stage == "pretrain" and epochs:
        findings += pretrain_symptoms(epochs, steps, settings, _paths_overlap(run / "calibration.json"))
    elif stage == "align" and epochs:
        if "end_kl" not in epochs[-1]:
            raise InputError(f"{run} is an alignment by an earlier version, without the figures needed; align again")
        record = run / "align.json"  # written at the end
        findings += align_symptoms(epochs, settings, read_json(record) if record.exists() else None)
    return Diagnosis(stage, run_state(run), findings)


def _of_tokenizer(folder: Path, settings: dict[str, Any]) -> list[str]:
    """Findings of the tokenizer's health report; none without a report (the run failed or is not finished)."""
    if not (folder / "health.json").exists():
        return []
    stored = read_json(folder / "health.json")
    health = Health(**{name: value for name, value in stored.items() if name != "warnings"})
    fatal = collapse_reason(health, Floors(**settings["floors"]))
    return [*([fatal] if fatal else []), *health_warnings(health)]


def _paths_overlap(calibration: Path) -> float:
    """The smallest overlap of users' lists among the search settings that calibration tried; 0 without calibration."""
    tried = read_json(calibration)["tried"] if calibration.exists() else []
    return min((row.get(OVERLAP, 0.0) for row in tried), default=0.0)
