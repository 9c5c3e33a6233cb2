"""What goes wrong in training without a word, read from a run's metrics, each with its remedy."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["align_symptoms", "pretrain_symptoms"]

FLAT = 0.01
"""A reward that rose by less than this part of itself has not risen, a loss has not fallen."""
ERRORS = 2.0
"""Standard errors beyond which a difference is none of chance."""
OVERFIT = 0.85
"""Quality below this part of the best is lost."""
RISING = 1.05
"""Quality that rose to this many times the epoch before's is still on its way."""
DIVERGED = 1.1
"""A loss that rose to this many times its lowest level diverges."""
LEVELS = 8
"""Logged steps that it takes to see levels of a loss through the noise of its batches."""
POPULAR = 1.1
"""Below this many times popularity's quality histories count for nothing."""
ALIKE = 0.5
"""Lists of which two users have more than this part in common are hardly anybody's own."""
UNKNOWN_CATEGORY = 0.1
"""Accuracy below which the category predictor knows nothing worth asking."""
SPIKES = 2
"""Spikes of a loss that more than bad luck explains."""

Rows = Sequence[Mapping[str, float]]


def pretrain_symptoms(
    epochs: Rows, steps: Rows = (), settings: Mapping[str, Any] | None = None, paths_overlap: float = 0.0
) -> list[str]:
    """A sentence for each known failure that a pre-training shows in its metrics; none if healthy.

    epochs: a row an epoch. steps: the rows of single steps. settings: those of the run, which remedies name.
    paths_overlap: `overlap@10` of the search for paths.
    """
    first, last = epochs[0], epochs[-1]
    rate = f"learning_rate{_now(settings, 'learning_rate')}"
    found = []
    unlearned = len(epochs) > 1 and last["loss"] > first["loss"] * (1 - FLAT)
    if (risen := _risen([row["loss"] for row in steps], [row["loss"] for row in epochs])) is not None:
        found.append(f"the loss rose to {risen[1]:.3f} after {risen[0]:.3f}: training diverges; lower {rate}")
    elif unlearned:
        found.append(
            f"the loss stands at {last['loss']:.3f} after {first['loss']:.3f} in the first epoch: nothing was learned; "
            f"change {rate}, or look at the tokens (reg4rec doctor on the tokenizer's run)"
        )
    quality = [row["validation_ndcg@10"] for row in epochs if "validation_ndcg@10" in row]
    best = max(quality, default=0.0)
    popular = first.get("popularity_ndcg@10")
    unpopular = bool(quality) and popular is not None and best < POPULAR * popular
    if unpopular:
        found.append(
            f"NDCG@10 on validation is {best:.4f} at best, popularity's {popular:.4f}: histories count "
            f"for nothing; lower {rate} where the loss jumped or stands still, raise it where the loss falls slowly"
        )
    elif quality and quality[-1] < OVERFIT * best:
        found.append(
            f"NDCG@10 on validation fell to {quality[-1]:.4f} after {best:.4f} in epoch {quality.index(best) + 1}, "
            "whose weights were kept: the model overfits; raise dropout or weight_decay, or train for fewer epochs"
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
            f"two users have {alike[name]:.0%} of their first ten items in common, as their {name} have it: they "
            f"collapse to the same for everybody; lower {rate} or dropout, or train for more epochs"
        )
    if last.get("category_accuracy", 1.0) < UNKNOWN_CATEGORY:
        found.append(
            f"the category after a token is predicted right {last['category_accuracy']:.0%} of the time; CORP and the "
            "category rewards rest on it: raise category_weight, or choose a coarser category level"
        )
    if last.get("loss_spikes", 0) > SPIKES:
        found.append(
            f"the loss spiked {last['loss_spikes']:.0f} times under LADQ: its traces were sampled again each time, and "
            f"training diverged again; lower {rate}, or sample more often (--sample-every)"
        )
    return found


def align_symptoms(epochs: Rows, settings: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> list[str]:
    """A sentence for each known failure that an alignment shows; none if it is healthy.

    epochs: the run's metrics, a row an epoch, the first with `start_*`, the same figures as `end_*` before any step.
    settings: those of the run, which remedies name. record: what `align.json` holds, once the run has ended.
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
            f"paths collapse: {end['path_diversity']:.0%} of a group are different after "
            f"{start['path_diversity']:.0%}, entropy {end['entropy']:.2f} nats after {start['entropy']:.2f}; {closer}"
        )
    if last["end_kl"] > 1.0:
        found.append(f"the policy left the pre-trained model, {last['end_kl']:.2f} nats an action away; {closer}")
    left = bool(found)
    consistent = last["end_reward_step_consistency"] > first["start_reward_step_consistency"]
    if consistent and end["top_category"] > max(0.5, 1.5 * start["top_category"]):
        found.append(
            f"consistency is earned by predicting one category {end['top_category']:.0%} of the time; lower the weight "
            f"of step_consistency{_now(settings, 'step_consistency')}, or {closer}"
        )
    if last["dead_groups"] > 0.5 and not collapsed:
        found.append(
            f"{last['dead_groups']:.0%} of the groups earn the same reward throughout and teach nothing; "
            "raise group_size or temperature, or weigh step_hit higher"
        )
    kept = record is not None and record["kept"]
    if not (left or kept) and last["end_gain"] + ERRORS * last["end_gain_error"] < FLAT * start["reward"]:
        found.append(
            f"the reward stands at {end['reward']:.3f} after {start['reward']:.3f}: a plateau; "
            f"raise {rate} or the weight of rewards that still spread (spread_*)"
        )
    return found + ([] if record is None else _harm(record, left, closer))


def _harm(record: Mapping[str, Any], left: bool, closer: str) -> list[str]:
    """Whether quality fell, and why."""
    before, after = ({k: record[when][f"validation_recall@{k}"] for k in (5, 10)} for when in ("before", "after"))
    if not record["gain"] < -ERRORS * record["gain_error"]:
        return []
    fell = f"Recall@10 on validation fell from {before[10]:.4f} to {after[10]:.4f} (± {record['gain_error']:.4f})"
    lost = {k: 1 - after[k] / max(before[k], 1e-9) for k in before}
    if left:
        return [f"{fell}: the policy went where its rewards are and quality is not; {closer}"]
    if lost[10] > 1.5 * max(lost[5], 0):
        return [f"{fell}, Recall@5 by {lost[5]:.1%}: the future is looked at too narrowly; raise window or decay"]
    return [f"{fell}: alignment did harm; {closer}"]


def _risen(steps: Sequence[float], epochs: Sequence[float]) -> tuple[float, float] | None:
    """(lowest, last) level of a loss that rose again: medians of four parts of the logged steps, or means of epochs."""
    quarter = len(steps) // 4
    parts = [steps[i * quarter : (i + 1) * quarter] for i in range(3)] + [steps[3 * quarter :]]
    levels = [statistics.median(part) for part in parts] if len(steps) >= LEVELS else list(epochs)
    lowest = min(levels)
    return (lowest, levels[-1]) if levels[-1] > DIVERGED * lowest else None


def _now(settings: Mapping[str, Any] | None, name: str) -> str:
    """What a setting is, for a remedy: " (now 0.02)"; nothing where that is not known."""
    for held in (settings or {}, *(value for value in (settings or {}).values() if isinstance(value, Mapping))):
        if name in held:
            return f" (now {held[name]:g})"
    return ""
