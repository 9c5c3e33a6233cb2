"""What validation decides about the search: the temperature of each codebook and CORP's threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg4rec import distributed
from reg4rec.data import Dataset
from reg4rec.evaluation import RecordedRanks, evaluate
from reg4rec.evaluation.metrics import gains
from reg4rec.infer import Recommender
from reg4rec.train.losses import admissible_next

__all__ = ["THRESHOLDS", "calibrate", "fit_temperatures", "is_higher"]

THRESHOLDS = (None, 0.04, 0.06, 0.08, 0.1, 0.2)
"""CORP off, the paper's range, and beyond it for models whose category distributions still move."""
ERRORS = 2.5
"""Of eight settings that change nothing one is then taken in about 5 % of all calibrations (docs/findings.md)."""
TEMPERATURES = np.geomspace(0.5, 2.0, 25)


def calibrate(
    recommender: Recommender,
    data: Dataset,
    thresholds: Sequence[float | None] = THRESHOLDS,
    max_users: int = 2000,
    seed: int = 0,
) -> tuple[Recommender, list[dict[str, Any]]]:
    """The recommender with the search settings that validation chooses, and a row for each setting tried.

    One setting after the other, each with the best of those before it: for models that score items the number of
    decoded tokens; then temperatures (none, or fitted) and CORP's threshold. The first values, two tokens and nothing
    else, stay unless another raises NDCG@10 by more than ERRORS standard errors of the difference over the users.
    Paper: CRSS temperature, ours, D5; theta tuned per data set, ours, D10.
    """
    choices: dict[str, Sequence[Any]] = {
        "temperatures": (None, fit_temperatures(recommender, data, max_users, seed)),
        "prune_threshold": thresholds,
    }
    if recommender.model.scores_items:
        num_codebooks = recommender.model.config.num_codebooks
        choices = {"num_steps": (*range(2, num_codebooks), None), **choices}
    tried: list[dict[str, Any]] = []

    def measure(settings: dict[str, Any]) -> npt.NDArray[np.float64]:
        recorded = RecordedRanks(recommender.with_search(**settings))
        report = evaluate(recorded, data, "validation", "standard", (10,), max_users, seed)
        tried.append({**settings, **report.rows[0].metrics, **report.rows[0].extra})
        return gains(recorded.ranks_B, 10)

    best = {name: values[0] for name, values in choices.items()}
    ndcg_B = measure(best)
    for name, values in choices.items():
        for value in values[1:]:
            settings = {**best, name: value}
            if is_higher(other_B := measure(settings), ndcg_B):
                best, ndcg_B = settings, other_B
    return recommender.with_search(**best), tried


def is_higher(values_B: npt.NDArray[np.float64], than_B: npt.NDArray[np.float64]) -> bool:
    """Whether the mean gain of the users, of all processes, is above ERRORS times its standard error."""
    gain_B = values_B - than_B
    sums = distributed.summed({"users": len(gain_B), "gain": gain_B.sum(), "square": np.square(gain_B).sum()})
    mean = sums["gain"] / sums["users"]
    return bool(mean > ERRORS * (max(0.0, sums["square"] / sums["users"] - mean**2) / sums["users"]) ** 0.5)


@torch.no_grad()
def fit_temperatures(recommender: Recommender, data: Dataset, max_users: int, seed: int) -> tuple[float, ...]:
    """Per codebook, the temperature at which the tokens of validation targets (no removed items) are most probable.

    Tokens are fed in a random order, or in the search's fixed one; every step scores the codebooks that are still open.
    """
    users, targets = data.targets("validation")
    there = ~recommender.removed_I.cpu().numpy()[targets]
    users, targets = users[there], targets[there]
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.choice(len(users), min(max_users, len(users)), replace=False))
    histories, model = data.part("train").take(users[chosen]), recommender.model
    codes_BM = recommender.codes_IM[torch.from_numpy(targets[chosen]).long()]
    rank_BM = torch.arange(codes_BM.shape[1]).expand(codes_BM.shape)
    if recommender.config.order == "confidence":
        rank_BM = torch.from_numpy(draw.random(codes_BM.shape).argsort(1))
    rank_BM = rank_BM.to(codes_BM.device)
    loss_FM = torch.zeros(len(TEMPERATURES), codes_BM.shape[1], dtype=torch.float64)
    for part in np.array_split(np.arange(len(chosen)), max(1, len(chosen) // 256)):
        memory = recommender.remember(histories.take(part))
        codes, rank = codes_BM[part], rank_BM[part]
        admissible_BSMK = admissible_next(codes, rank, recommender.index) if model.config.renormalize else None
        order = rank.argsort(1)
        token_B1S = (order * model.config.codebook_size + codes.gather(1, order))[:, None]
        state_BSD = model.decode_paths(memory, token_B1S)[:, 0, :-1]
        for step in range(codes.shape[1]):
            logits_BMK = model.token_logits(state_BSD[:, step])
            if admissible_BSMK is not None:
                logits_BMK = logits_BMK.masked_fill(~admissible_BSMK[:, step], -torch.inf)
            loss_FM += _losses(logits_BMK, codes, rank >= step)
    return tuple(float(TEMPERATURES[f]) for f in loss_FM.argmin(0).tolist())


def _losses(logits_BMK: Tensor, codes_BM: Tensor, open_BM: Tensor) -> Tensor:
    """loss_FM: for each temperature and codebook, the summed cross-entropy of the open codebooks."""
    rows = []
    for temperature in TEMPERATURES.tolist():
        log_probs = (logits_BMK.float() / temperature).log_softmax(-1).gather(-1, codes_BM[..., None]).squeeze(-1)
        rows.append(-torch.where(open_BM, log_probs.double(), 0).sum(0).cpu())
    return torch.stack(rows)
