"""What goes wrong in post-training without a word, read from its metrics, each with its remedy."""

from collections.abc import Mapping, Sequence

__all__ = ["symptoms"]

FLAT = 0.01
"""A reward that rose by less than this part of itself has not risen."""


def symptoms(before: Mapping[str, float], epochs: Sequence[Mapping[str, float]]) -> list[str]:
    """A sentence for each known failure that the run shows; none for a healthy run.

    before: validation figures of the recommender that was aligned; epochs: the run's metrics, a row an epoch.
    """
    first, last = epochs[0], epochs[-1]
    found = []
    if len(epochs) > 1 and last["reward"] < first["reward"] * (1 + FLAT):
        found.append(
            f"the reward stands at {last['reward']:.3f} after {first['reward']:.3f} in the first epoch: a plateau; "
            "raise learning_rate or the weight of rewards that still spread (spread_*), or try mixing 'variance'"
        )
    if last["dead_groups"] > 0.5:
        found.append(
            f"{last['dead_groups']:.0%} of the groups earn the same reward throughout and teach nothing; "
            "raise group_size or temperature, or weigh step_hit higher"
        )
    lost = {k: 1 - last[f"validation_recall@{k}"] / max(before[f"validation_recall@{k}"], 1e-9) for k in (5, 10)}
    if lost[10] > 0.02 and lost[10] > 1.5 * max(lost[5], 0):
        found.append(
            f"Recall@10 fell by {lost[10]:.1%}, Recall@5 by {lost[5]:.1%}: the future is looked at too narrowly; "
            "raise window or decay"
        )
    if last["path_diversity"] < 0.5 * first["path_diversity"] or last["entropy"] < 0.3 * first["entropy"]:
        found.append(
            f"paths collapse: {last['path_diversity']:.0%} of a group are different, entropy {last['entropy']:.2f} "
            f"nats after {first['entropy']:.2f}; raise kl_weight or anchor_weight, or lower learning_rate"
        )
    if last["reward_step_consistency"] > first["reward_step_consistency"] and last["top_category"] > max(
        0.5, 1.5 * first["top_category"]
    ):
        found.append(
            f"consistency is earned by predicting one category {last['top_category']:.0%} of the time; "
            "lower the weight of step_consistency or raise anchor_weight"
        )
    if last["kl"] > 1.0:
        found.append(
            f"the policy is {last['kl']:.2f} nats an action away from the pre-trained model; raise kl_weight or lower "
            "learning_rate"
        )
    return found
