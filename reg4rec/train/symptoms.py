"""What goes wrong in training without a word, read from a run's metrics, each with its remedy."""

from collections.abc import Mapping, Sequence

__all__ = ["align_symptoms", "pretrain_symptoms"]

FLAT = 0.01
"""A reward that rose by less than this part of itself has not risen, a loss has not fallen."""
OVERFIT = 0.85
"""Quality below this part of the best is lost."""
RISING = 1.05
"""Quality that rose to this many times the epoch before's is still on its way."""
UNKNOWN_CATEGORY = 0.1
"""Accuracy below which the category predictor knows nothing worth asking."""
SPIKES = 2
"""Spikes of a loss that more than bad luck explains."""


def pretrain_symptoms(epochs: Sequence[Mapping[str, float]]) -> list[str]:
    """A sentence for each known failure that a pre-training shows in its metrics, a row an epoch; none if healthy."""
    first, last = epochs[0], epochs[-1]
    found = []
    if len(epochs) > 1 and last["loss"] > first["loss"] * (1 - FLAT):
        found.append(
            f"the loss stands at {last['loss']:.3f} after {first['loss']:.3f} in the first epoch: nothing was learned; "
            "change learning_rate, or look at the tokens (reg4rec doctor on the tokenizer's run)"
        )
    quality = [row["validation_ndcg@10"] for row in epochs if "validation_ndcg@10" in row]
    best = max(quality, default=0.0)
    if quality and quality[-1] < OVERFIT * best:
        found.append(
            f"NDCG@10 on validation fell to {quality[-1]:.4f} after {best:.4f} in epoch {quality.index(best) + 1}, "
            "whose weights were kept: the model overfits; raise dropout or weight_decay, or train for fewer epochs"
        )
    if len(quality) > 1 and quality[-1] == best > quality[-2] * RISING:
        found.append(
            f"NDCG@10 on validation still rose from {quality[-2]:.4f} to {best:.4f} in the last epoch; "
            "train for more epochs"
        )
    if last.get("category_accuracy", 1.0) < UNKNOWN_CATEGORY:
        found.append(
            f"the category after a token is predicted right {last['category_accuracy']:.0%} of the time; CORP and the "
            "category rewards rest on it: raise category_weight, or choose a coarser category level"
        )
    if last.get("loss_spikes", 0) > SPIKES:
        found.append(
            f"the loss spiked {last['loss_spikes']:.0f} times under LADQ: its traces were sampled again each time, and "
            "training diverged again; lower learning_rate, or sample more often (--sample-every)"
        )
    return found


def align_symptoms(before: Mapping[str, float], epochs: Sequence[Mapping[str, float]]) -> list[str]:
    """A sentence for each known failure that an alignment shows; none if it is healthy.

    before: validation figures of the recommender that was aligned; epochs: the run's metrics, a row an epoch.
    """
    first, last = epochs[0], epochs[-1]
    found = []
    if len(epochs) > 1 and last["reward"] < first["reward"] * (1 + FLAT):
        found.append(
            f"the reward stands at {last['reward']:.3f} after {first['reward']:.3f} in the first epoch: a plateau; "
            "raise learning_rate or the weight of rewards that still spread (spread_*)"
        )
    if last["dead_groups"] > 0.5:
        found.append(
            f"{last['dead_groups']:.0%} of the groups earn the same reward throughout and teach nothing; "
            "raise group_size or temperature, or weigh step_hit higher"
        )
    lost = {k: 1 - last[f"validation_recall@{k}"] / max(before[f"validation_recall@{k}"], 1e-9) for k in (5, 10)}
    if lost[10] > 0.02 and lost[10] > 1.5 * max(lost[5], 0):
        found.append(
            f"Recall@10 moved by {-lost[10]:+.1%}, Recall@5 by {-lost[5]:+.1%}: the future is looked at too narrowly; "
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
