"""Post-training: PARS rewards reasoning paths, MSRA rewards several future items, GRPO updates the policy."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reg4rec import distributed, loop
from reg4rec.alignment.config import AlignConfig
from reg4rec.alignment.rewards import REWARDS, Reward
from reg4rec.alignment.stage import AlignStage
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.settings import check_same_recipe, override
from reg4rec.statistics import error_of_mean, is_higher
from reg4rec.storage import write_json
from reg4rec.train.fit import calibrated
from reg4rec.train.symptoms import align_symptoms

__all__ = ["align"]


def align(
    recommender: Recommender,
    data: Dataset,
    config: AlignConfig | None = None,
    run: Run = Run(),
    own_rewards: Mapping[str, tuple[float, Reward]] | None = None,
    **overrides: Any,
) -> Recommender:
    """Align a pre-trained recommender on the training part of `data` and return the better one of the two.

    That is the aligned recommender if an epoch beats the validation Recall@10 of the given one by more than two
    standard errors of the paired difference (or loses no more than `config.accepted_loss`), else the given one. The
    given one does not change. The search settings of an aligned one are chosen by validation, as after pre-training.

    `run.out` is the run folder (see `reg4rec.loop`): `align.json` contains the validation metrics before and after, and
    the gain of Recall@10 with its standard error; `recommender/` contains the result. Training runs on the device of
    `recommender`, not on `run.device`. `overrides` replace fields of `config`, of its `rewards` or its `loop` by name.

    own_rewards: further rewards, for each name a weight and a function of `RewardedPaths`; they are mixed with the four
    of `config.rewards` by weight (examples/extend.py). A killed run resumes only with the same names and weights; it is
    up to you that the functions are the same. InputError for a recommender of another recipe, and for values outside
    0..1.
    Paper: PARS and MSRA, stated, D7 to D9.
    """
    config = override(config or AlignConfig(), overrides)
    check_same_recipe(recommender.tokenizer.config.recipe, config.recipe)
    folder, own = run.folder, dict(own_rewards or {})
    _check_rewards(own)
    with run.seeded():
        stage = AlignStage(recommender, data, config, run.seed, own)
    before = stage.validate()
    assert before.values_B is not None
    result = loop.train(stage, config.loop, run)
    stage.policy.row_tables = ()
    after = result.epochs[result.best_epoch]
    assert result.best_values_B is not None
    gain_B = result.best_values_B - before.values_B
    helped = is_higher(result.best_values_B, before.values_B, loop.ERRORS)
    helped = helped or 0 < config.accepted_loss >= -gain_B.mean()
    aligned = stage.recommender if helped else recommender
    record: dict[str, Any] = {
        "before": before.metrics,
        "after": {name: after[name] for name in before.metrics},
        "gain": float(gain_B.mean()),  # of Recall@10; gain_error is its standard error over the users
        "gain_error": error_of_mean(gain_B),
        "kept": helped,
    }
    for finding in align_symptoms(result.epochs, asdict(config), record) if distributed.is_first() else ():
        warnings.warn(f"reg4rec align: {finding}", stacklevel=2)
    if helped:
        aligned = calibrated(aligned, data, config.protocol, config.validation_users, run)
    if folder is not None and distributed.is_first():
        write_json(folder / "align.json", record)
        aligned.save_pretrained(folder / "recommender")
    return aligned


def _check_rewards(own: Mapping[str, tuple[float, Reward]]) -> None:
    for name, given in own.items():
        if name in (*REWARDS, "order") or not name.isidentifier():
            taken = ", ".join((*REWARDS, "order"))
            raise InputError(f"own_rewards has the name {name!r}; choose an identifier other than {taken}")
        pair = given if isinstance(given, tuple) and len(given) == 2 else (None, None)
        if not isinstance(pair[0], int | float) or not 0 < pair[0] < math.inf or not callable(pair[1]):
            raise InputError(f"own_rewards[{name!r}] must be (weight above 0, function), found {given!r}")
