"""What ails a run, read from its folder, whichever stage it is of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reg4rec.checkpoints import read_metrics, read_settings, run_state
from reg4rec.errors import InputError
from reg4rec.storage import read_json
from reg4rec.tokenizer.config import Floors
from reg4rec.tokenizer.health import Health
from reg4rec.tokenizer.verdict import collapse_reason, warnings
from reg4rec.train.symptoms import align_symptoms, pretrain_symptoms
from reg4rec.train.validation import OVERLAP

__all__ = ["Diagnosis", "diagnose"]


STAGES = ("tokenizer", "pretrain", "align")


@dataclass(frozen=True)
class Diagnosis:
    """A sentence for each failure that a run shows, with its remedy; none for a healthy one."""

    stage: str
    state: str
    """finished, failed, or at which step a run was when it was last seen"""
    findings: list[str]


def diagnose(run: str | Path) -> Diagnosis:
    """Look at the run folder of a tokenizer, a pre-training or an alignment. InputError where it is none of them."""
    run = Path(run)
    settings = read_settings(run)
    stage = settings.get("stage", "tokenizer")
    if stage not in STAGES:
        raise InputError(f"{run} is a run of {stage}; the doctor knows runs of {', '.join(STAGES)}")
    rows = read_metrics(run)
    epochs, steps = ([row for row in rows if ("epoch" in row) == whole] for whole in (True, False))
    failure = run / "failure.json"
    findings = [f"the run gave itself up: {read_json(failure)['reason']}"] if failure.exists() else []
    if stage == "tokenizer":
        findings += _of_tokenizer(run / "tokenizer", settings)
    elif stage == "pretrain" and epochs:
        findings += pretrain_symptoms(epochs, steps, settings, _paths_overlap(run / "calibration.json"))
    elif stage == "align" and epochs:
        if "end_kl" not in epochs[-1]:
            raise InputError(f"{run} holds an alignment of an earlier version; align again to have it looked at")
        record = run / "align.json"  # written at the end
        findings += align_symptoms(epochs, settings, read_json(record) if record.exists() else None)
    return Diagnosis(stage, run_state(run), findings)


def _of_tokenizer(folder: Path, settings: dict[str, Any]) -> list[str]:
    """What its health report says; without one the run failed or is not finished."""
    if not (folder / "health.json").exists():
        return []
    stored = read_json(folder / "health.json")
    health = Health(**{name: value for name, value in stored.items() if name != "warnings"})
    fatal = collapse_reason(health, Floors(**settings["floors"]))
    return [*([fatal] if fatal else []), *warnings(health)]


def _paths_overlap(calibration: Path) -> float:
    """How much users' paths are alike, in the settings tried in which they are least so; 0 if none were."""
    tried = read_json(calibration)["tried"] if calibration.exists() else []
    return min((row.get(OVERLAP, 0.0) for row in tried), default=0.0)
