"""Calibration: validation chooses the number of decoded tokens and CORP's threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.data import Dataset
from reg4rec.evaluation import ProtocolName, evaluate, gains
from reg4rec.progress import bar
from reg4rec.recommend import Recommender
from reg4rec.statistics import by_user, is_higher
from reg4rec.train.validation import OVERLAP

__all__ = ["THRESHOLDS", "calibrate"]

THRESHOLDS = (None, 0.04, 0.06, 0.08, 0.1, 0.2)
"""CORP off, the paper's range, and larger values for models whose category distributions change more."""
ERRORS = 2.5
"""A setting must win by this many standard errors. One of seven without effect wins in about 4 % of calibrations."""


def calibrate(
    recommender: Recommender,
    data: Dataset,
    thresholds: Sequence[float | None] = THRESHOLDS,
    max_users: int = 2000,
    seed: int = 0,
    protocol: ProtocolName = "standard",
) -> tuple[Recommender, list[dict[str, Any]]]:
    """The recommender with the path search settings that validation chooses, and a row of metrics for each one tried.

    The retriever does not change; with "exact" the chosen settings only apply when a caller asks for paths.

    For models that score items, the number of decoded tokens is chosen first, then CORP's threshold with it. The first
    values, two tokens and CORP off, stay unless another value raises NDCG@10 by more than ERRORS standard errors of the
    paired difference. Paper: theta tuned per data set, ours, D10.
    """
    choices: dict[str, Sequence[Any]] = {"prune_threshold": thresholds}
    if recommender.model.scores_items:
        choices = {"num_steps": (*range(2, recommender.model.config.num_codebooks), None), **choices}
    tried: list[dict[str, Any]] = []

    def measure(settings: dict[str, Any]) -> npt.NDArray[np.float64]:
        searching = recommender.with_search(retriever="paths", **settings)
        (row,) = evaluate(searching, data, "validation", protocol, (10,), max_users, seed, heaviest=True).rows
        tried.append({**settings, **row.metrics, **row.extra, OVERLAP: row.lists["overlap@10"]})
        return by_user(gains(row.ranks_B, 10), row.users_B)

    best = {name: values[0] for name, values in choices.items()}
    total = 1 + sum(len(values) - 1 for values in choices.values())
    with bar("settings of the search for paths", total) as settings_tried:
        ndcg_B = measure(best)
        settings_tried.update()
        for name, values in choices.items():
            for value in values[1:]:
                settings = {**best, name: value}
                if is_higher(other_B := measure(settings), ndcg_B, ERRORS):
                    best, ndcg_B = settings, other_B
                settings_tried.update()
    return recommender.with_search(**best), tried
