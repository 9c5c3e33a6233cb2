"""Post-training: PARS rewards reasoning paths for what they hit, MSRA looks at several future items, GRPO learns."""

import warnings
from pathlib import Path
from typing import Any

import torch

from reg4rec import distributed, loop
from reg4rec.data import Dataset
from reg4rec.infer import Recommender
from reg4rec.settings import check_seed, override
from reg4rec.storage import write_json
from reg4rec.train.align_config import AlignConfig
from reg4rec.train.align_stage import AlignStage
from reg4rec.train.fit import calibrated
from reg4rec.train.recipes import RecipeName, recipe_named
from reg4rec.train.symptoms import align_symptoms

__all__ = ["align"]


def align(
    recommender: Recommender,
    data: Dataset,
    config: AlignConfig | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    progress: bool = True,
    recipe: RecipeName = "default",
    **overrides: Any,
) -> Recommender:
    """A recommender whose model was aligned on the training part of `data`, on the device of the given one.

    The given one stays as it is, and is what comes back when no epoch beats it on validation. The search is set up by
    validation again, as after pre-training. `out` is the run folder (see `reg4rec.loop`): `align.json` holds the
    validation figures before and after, `recommender/` the result. Without a `config` the settings are those of the
    `recipe`, best the one by which the recommender was fitted. `overrides` replace fields of them, of their `rewards`
    or their `loop` by name. Paper: PARS and MSRA, stated, D7 to D9.
    """
    check_seed(seed)
    config = override(config or recipe_named(recipe).align, overrides)
    folder = None if out is None else Path(out)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stage = AlignStage(recommender, data, config, seed)
    before = stage.validate()
    result = loop.run(stage, config.loop, folder, resume, seed, progress)
    after = result.epochs[result.best_epoch]
    for finding in align_symptoms(before, result.epochs) if distributed.is_first() else ():
        warnings.warn(f"reg4rec align: {finding}", stacklevel=2)
    helped = after[stage.monitor] > before[stage.monitor]
    aligned = stage.ranker if helped else recommender
    record: dict[str, Any] = {"before": before, "after": {name: after[name] for name in before}, "kept": helped}
    if helped:
        kept = None if folder is None else folder / "calibration.json"
        aligned = calibrated(aligned, data, config.validation_users, seed, kept, resume)
    if folder is not None and distributed.is_first():
        write_json(folder / "align.json", record)
        aligned.save_pretrained(folder / "recommender")
    return aligned
