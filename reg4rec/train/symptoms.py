"""Silent failures of training, found in a run's metrics, each with a remedy."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["align_symptoms", "pretrain_symptoms"]

FLAT = 0.01
"""A reward that rose, or a loss that fell, by less than this fraction counts as unchanged."""
ERRORS = 2.0
"""A difference of more standard errors than this is not chance."""
OVERFIT = 0.85
"""The model overfits if its last quality is below this fraction of its best."""
RISING = 1.05
"""Quality still rises if it is more than this many times that of the epoch before."""
DIVERGED = 1.1
"""A loss diverges if it rose to more than this many times its lowest level."""
LEVELS = 8
"""Fewest logged steps from which levels of a loss are read; fewer are too noisy."""
POPULAR = 1.1
"""A model ignores histories if its quality is below this many times that of popularity."""
ALIKE = 0.5
"""Lists are not personal if two users share more than this fraction of them."""
UNKNOWN_CATEGORY = 0.1
"""Below this accuracy the category predictor is useless."""
SPIKES = 2
"""More spikes of the loss than this are not bad luck."""

Rows = Sequence[Mapping[str, float]]


def pretrain_symptoms(
    epochs: Rows, steps: Rows = (), settings: Mapping[str, Any] | None = None, paths_overlap: float = 0.0
) -> list[str]:
    """A sentence for each known failure in the metrics of a pre-training; an empty list if it is healthy.

    epochs: metrics, a row for each epoch. steps: metrics of single steps. settings: the run's settings, which remedies
    name. paths_overlap: `overlap@10` of the path search.
    """
    first, last = epochs[0], epochs[-1]
    rate = f"learning_rate{_now(settings, 'learning_rate')}"
    found = []
    unlearned = len(epochs) > 1 and last["loss"] > first["loss"] * (1 - FLAT)
    if (risen := _risen([row["loss"] for row in steps], [row["loss"] for row in epochs])) is not None:
        found.append(f"the loss rose to {risen[1]:.3f} after {risen[0]:.3f}: training diverges; lower {rate}")
    elif unlearned:
        found.append(
            f"the loss is {last['loss']:.3f} after {first['loss']:.3f} in the first epoch: nothing was learned; "
            f"change {rate}, or check the tokens (reg4rec doctor on the tokenizer's run)"
        )
    quality = [row["validation_ndcg@10"] for row in epochs if "validation_ndcg@10" in row]
    best = max(quality, default=0.0)
    popular = first.get("popularity_ndcg@10")
    unpopular = bool(quality) and popular is not None and best < POPULAR * popular
    if unpopular:
        found.append(
            f"NDCG@10 on validation is {best:.4f} at best, that of popularity {popular:.4f}: the model ignores "
            f"histories; lower {rate} if the loss jumps or does not fall, raise it if the loss falls slowly"
        )
    elif quality and quality[-1] < OVERFIT * best:
        found.append(
            f"NDCG@10 on validation fell to {quality[-1]:.4f} after {best:.4f} in epoch {quality.index(best) + 1}, "
            "whose weights were kept: the model overfits; raise dropout or weight_decay, or train fewer epochs"
        )
    elif len(quality) > 1 and quality[-1] == best > quality[-2] * RISING:
        found.append(
            f"NDCG@10 on validation still rose from {quality[-2]:.4f} to {best:.4f} in the last epoch; "
            "train for more epochs"
        )
    alike = {"lists": last.get("validation_list_overlap@10", 0.0), "paths": paths_overlap}
    name = max(alike, key=lambda name: alike[name])
    if alike[name] > ALIKE:
        found.append(
            f"two users share {alike[name]:.0%} of the first ten items of their {name} on average: the "
            f"recommendations collapse to the same for everybody; lower {rate} or dropout, or train for more epochs"
        )
    if last.get("category_accuracy", 1.0) < UNKNOWN_CATEGORY:
        found.append(
            f"the category after a token is right only {last['category_accuracy']:.0%} of the time, and CORP and the "
            "category rewards depend on it; raise category_weight, or choose a coarser category level"
        )
    if last.get("loss_spikes", 0) > SPIKES:
        found.append(
            f"the loss spiked {last['loss_spikes']:.0f} times with LADQ, although layers returned to fp32 each time; "
            f"lower {rate}, or sample more often (--sample-every)"
        )
    return found


def align_symptoms(epochs: Rows, settings: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> list[str]:
    """A sentence for each known failure of an alignment; an empty list if it is healthy.

    epochs: metrics, a row for each epoch; the first row has `start_*`, the figures `end_*` before training. settings:
    the run's settings, which remedies name. record: the content of `align.json`, once the run has ended.
    """
    first, last = epochs[0], epochs[-1]
    start = {name: first[f"start_{name}"] for name in ("reward", "path_diversity", "entropy", "top_category")}
    end = {name: last[f"end_{name}"] for name in start}
    rate, held = f"learning_rate{_now(settings, 'learning_rate')}", f"kl_weight{_now(settings, 'kl_weight')}"
    closer = f"lower {rate}, or raise {held} or anchor_weight{_now(settings, 'anchor_weight')}"
    found = []
    collapsed = end["path_diversity"] < 0.5 * start["path_diversity"] or end["entropy"] < 0.3 * start["entropy"]
    if collapsed:
        found.append(
            f"paths collapse: {end['path_diversity']:.0%} of a group's paths are different, "
            f"{start['path_diversity']:.0%} before; entropy is {end['entropy']:.2f} nats, {start['entropy']:.2f} "
            f"before; {closer}"
        )
    if last["end_kl"] > 1.0:
        found.append(f"the policy left the pre-trained model: {last['end_kl']:.2f} nats per action; {closer}")
    left = bool(found)
    consistent = last["end_reward_step_consistency"] > first["start_reward_step_consistency"]
    if consistent and end["top_category"] > max(0.5, 1.5 * start["top_category"]):
        found.append(
            f"the policy predicts one category {end['top_category']:.0%} of the time to earn the consistency "
            f"reward; lower the weight of step_consistency{_now(settings, 'step_consistency')}, or {closer}"
        )
    if last["dead_groups"] > 0.5 and not collapsed:
        found.append(
            f"{last['dead_groups']:.0%} of the groups teach nothing, because all their paths earn the same reward; "
            "raise group_size, temperature, or the weight of step_hit"
        )
    kept = record is not None and record["kept"]
    if not (left or kept) and last["end_gain"] + ERRORS * last["end_gain_error"] < FLAT * start["reward"]:
        found.append(
            f"the reward is on a plateau: {end['reward']:.3f}, {start['reward']:.3f} before; "
            f"raise {rate} or the weight of rewards that still differ within groups (spread_*)"
        )
    return found + ([] if record is None else _harm(record, left, closer))


def _harm(record: Mapping[str, Any], left: bool, closer: str) -> list[str]:
    """A finding if quality fell, with the likely reason."""
    before, after = ({k: record[when][f"validation_recall@{k}"] for k in (5, 10)} for when in ("before", "after"))
    if not record["gain"] < -ERRORS * record["gain_error"]:
        return []
    fell = f"Recall@10 on validation fell from {before[10]:.4f} to {after[10]:.4f} (± {record['gain_error']:.4f})"
    lost = {k: 1 - after[k] / max(before[k], 1e-9) for k in before}
    if left:
        return [f"{fell}: the policy earns rewards that do not raise quality; {closer}"]
    if lost[10] > 1.5 * max(lost[5], 0):
        return [f"{fell}, Recall@5 by {lost[5]:.1%}: rewards look at too few future items; raise window or decay"]
    return [f"{fell}: alignment made the model worse; {closer}"]


def _risen(steps: Sequence[float], epochs: Sequence[float]) -> tuple[float, float] | None:
    """(lowest, last) level of a loss that diverged, else None; levels: medians of quarters of the steps, or epochs."""
    quarter = len(steps) // 4
    parts = [steps[i * quarter : (i + 1) * quarter] for i in range(3)] + [steps[3 * quarter :]]
    levels = [statistics.median(part) for part in parts] if len(steps) >= LEVELS else list(epochs)
    lowest = min(levels)
    return (lowest, levels[-1]) if levels[-1] > DIVERGED * lowest else None


def _now(settings: Mapping[str, Any] | None, name: str) -> str:
    """The value of a setting as remedies show it, for example " (now 0.02)"; empty if it is unknown."""
    for held in (settings or {}, *(value for value in (settings or {}).values() if isinstance(value, Mapping))):
        if name in held:
            return f" (now {held[name]:g})"
    return ""
