"""A page about one run, in the form that a report takes: settings, curves, tokens, figures, what ails it."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reg4rec.checkpoints import newest_progress, read_metrics, read_settings
from reg4rec.experiments.finding import markdown_table
from reg4rec.experiments.report import SavedFinding
from reg4rec.pictures import new_figure
from reg4rec.recipes import RECIPES
from reg4rec.storage import read_json, to_json
from reg4rec.tokenizer import Tokenizer
from reg4rec.train.doctor import diagnose

__all__ = ["findings_of_run", "is_run"]

STAGES = {"tokenizer": "tokenizer", "model": "pretrain", "aligned": "align"}
"""Folders of a fit, and the stages that ran in them."""


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a fit or of one of its stages."""
    return (folder / "fit.json").is_file() or (folder / "config.json").is_file()


def findings_of_run(folder: Path) -> list[SavedFinding]:
    """A finding for the figures of a fit and for each stage that has begun, or for the one stage that ran there.

    InputError for the run of a baseline, and for files that cannot be read.
    """
    if not (folder / "fit.json").is_file():
        return [_of_stage(folder, folder.name)]
    begun = [_of_stage(folder / name, name) for name in STAGES if (folder / name / "config.json").is_file()]
    return [*([_of_metrics(folder)] if (folder / "metrics.json").is_file() else []), *begun]


def _of_metrics(folder: Path) -> SavedFinding:
    found = read_json(folder / "metrics.json")
    card, rows = found["card"], found["rows"]
    table = _table(["method", *rows[0]["metrics"]], [[row["name"], *row["metrics"].values()] for row in rows])
    about = f"{card['users']:,} users, {card['items']:,} items, {card['split']}, {card['protocol']} protocol"
    text = f"# {card['dataset']}: what the fit reached\n\n{about}\n\n{table}\n"
    return SavedFinding("metrics", {"cards": {card["protocol"]: card}}, text, None)


def _of_stage(folder: Path, place: str) -> SavedFinding:
    settings, rows, diagnosis = read_settings(folder), read_metrics(folder), diagnose(folder)
    ails = [f"* {finding}" for finding in diagnosis.findings] or ["The doctor finds none of the known failures."]
    parts = [f"# {diagnosis.stage}: {diagnosis.state}", "\n".join(ails)]
    if settings["recipe"] in RECIPES:  # TIGER and RPG have settings of their own
        parts += _changes(diagnosis.stage, settings)
    if (folder / "tokenizer" / "tokenizer.json").is_file():
        described = Tokenizer.from_pretrained(folder / "tokenizer").describe()
        parts += ["## Tokens", f"```\n{described}\n```"]
    parts += _epochs(folder, rows)
    if (folder / "align.json").is_file():
        record = read_json(folder / "align.json")
        head = ["validation, by its own search", "before", "after" if record["kept"] else "after (not kept)"]
        values = [[_short(name), value, record["after"][name]] for name, value in record["before"].items()]
        parts += ["## Alignment", _table(head, values)]
    if (folder / "calibration.json").is_file():
        parts += _search(read_json(folder / "calibration.json"))
    return SavedFinding(place, {"settings": settings}, "\n\n".join(parts) + "\n", _curves(rows))


def _changes(stage: str, settings: dict[str, Any]) -> list[str]:
    """The settings that are not the recipe's, of those that make a run what it is."""
    own, recipe = _flat(settings), _flat(json.loads(to_json(asdict(getattr(RECIPES[settings["recipe"]], stage)))))
    names = [name for name, value in recipe.items() if name in own and own[name] != value]
    title = f"## Settings that differ from the recipe `{settings['recipe']}`"
    rows = [[name, json.dumps(recipe[name]), json.dumps(own[name])] for name in names]
    return [title, _table(["setting", "recipe", "this run"], rows) if names else "none"]


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The settings by names with dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _epochs(folder: Path, rows: list[dict[str, float]]) -> list[str]:
    """Loss and validation of the first, the best and the last epoch."""
    epochs, progress = [row for row in rows if "epoch" in row], newest_progress(folder)
    if not epochs or progress is None:
        return []
    best = progress.best_epoch
    shown = [("first", epochs[0]), ("last", epochs[-1])]
    if 0 <= best < len(epochs):
        shown.insert(1, (f"best ({best + 1})", epochs[best]))
    names = [name for name in epochs[-1] if name == "loss" or name.startswith("validation_")]
    head = [f"epochs: {len(epochs)}", *(name for name, _ in shown)]
    return ["## Epochs", _table(head, [[_short(name), *(row[name] for _, row in shown)] for name in names])]


def _search(calibration: dict[str, Any]) -> list[str]:
    """What was tried on validation for the search for paths, and what was chosen."""
    chosen, tried = calibration["chosen"], calibration["tried"]
    names = [
        name for name in ("num_steps", "prune_threshold", "recall@10", "ndcg@10", "path_recall") if name in tried[0]
    ]
    marks = ["chosen" if all(chosen[n] == row[n] for n in names if n in chosen) else "" for row in tried]
    rows = [[mark or "tried", *(row[name] for name in names)] for mark, row in zip(marks, tried, strict=True)]
    return ["## Search for paths", _table(["settings", *names], rows)]


def _curves(rows: list[dict[str, float]]) -> bytes | None:
    """A PNG of the loss over the steps and of validation over the epochs; None without matplotlib or steps."""
    steps, epochs = [row for row in rows if "epoch" not in row], [row for row in rows if "epoch" in row]
    if not steps or (figure := new_figure(10, 3.4)) is None:
        return None
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in steps], [row["loss"] for row in steps])
    left.set(title="loss", xlabel="step")
    for name in ("validation_recall@10", "validation_ndcg@10", "usage", "collision_rate"):
        if known := [row for row in epochs if name in row]:
            right.plot([row["epoch"] + 1 for row in known], [row[name] for row in known], "o-", label=_short(name))
    if right.lines:
        right.legend(frameon=False)
    right.set_visible(bool(right.lines))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(title="after each epoch", xlabel="epoch", ylim=(0, None))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _table(head: list[str], rows: Sequence[Sequence[Any]]) -> str:
    texts = [["-" if c is None else f"{c:.4f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return markdown_table([head, *texts])


def _short(name: str) -> str:
    return name.removeprefix("validation_")
