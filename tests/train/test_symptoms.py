"""The thresholds of the symptoms; that training really shows them is tested in test_doctor.py."""

from typing import Any

import pytest

from reg4rec.train.symptoms import align_symptoms, pretrain_symptoms

BEFORE = {"validation_recall@5": 0.05, "validation_recall@10": 0.08}
DRAWN = {"reward": 0.30, "path_diversity": 0.8, "entropy": 2.0, "top_category": 0.2, "reward_step_consistency": 0.6}
EPOCH = {
    **{f"start_{name}": value for name, value in DRAWN.items()},
    **{f"end_{name}": value for name, value in DRAWN.items()},
    "end_kl": 0.1,
    "end_gain": 0.02,
    "end_gain_error": 0.005,
    "dead_groups": 0.05,
}
SETTINGS: dict[str, Any] = {
    "kl_weight": 0.0, "anchor_weight": 0.5, "rewards": {"step_consistency": 1.0}, "loop": {"learning_rate": 0.02}
}  # fmt: skip


def record(recall_5: float, recall_10: float, error: float = 0.001, kept: bool = False) -> dict[str, Any]:
    after = {"validation_recall@5": recall_5, "validation_recall@10": recall_10}
    gain = recall_10 - BEFORE["validation_recall@10"]
    return {"before": BEFORE, "after": after, "gain": gain, "gain_error": error, "kept": kept}


@pytest.mark.parametrize("ended", [None, record(0.052, 0.085, kept=True), record(0.04, 0.079)])
def test_a_healthy_alignment_is_called_healthy(ended: dict[str, Any] | None) -> None:
    assert align_symptoms([EPOCH], SETTINGS, ended) == []


@pytest.mark.parametrize(
    ("signs", "name", "remedy"),
    [
        ({"end_path_diversity": 0.3}, "collapse", "raise kl_weight (now 0)"),
        ({"end_entropy": 0.3}, "collapse", "lower learning_rate (now 0.02)"),
        ({"end_entropy": 0.3, "dead_groups": 0.9}, "collapse", "kl_weight"),
        ({"end_kl": 1.4}, "left the pre-trained model", "kl_weight"),
        ({"dead_groups": 0.7}, "teach nothing", "group_size"),
        ({"end_gain": 0.0, "end_gain_error": 0.001}, "plateau", "learning_rate"),
        ({"end_reward_step_consistency": 0.9, "end_top_category": 0.8}, "one category", "step_consistency (now 1)"),
    ],
)
def test_each_failure_of_an_alignment_is_named_with_its_remedy(signs: dict[str, float], name: str, remedy: str) -> None:
    (found,) = align_symptoms([EPOCH | signs], SETTINGS)
    assert name in found
    assert remedy in found


def test_a_reward_that_moved_within_its_noise_or_helped_is_on_no_plateau() -> None:
    assert align_symptoms([EPOCH | {"end_gain": 0.002, "end_gain_error": 0.005}], SETTINGS) == []
    still = EPOCH | {"end_gain": 0.0, "end_gain_error": 0.001}
    assert align_symptoms([still], SETTINGS, record(0.05, 0.085, kept=True)) == []


@pytest.mark.parametrize(
    ("recall_5", "recall_10", "remedy"),
    [(0.049, 0.07, "raise window or decay"), (0.03, 0.05, "lower learning_rate"), (0.04, 0.06, "raise kl_weight")],
)
def test_lost_quality_is_named(recall_5: float, recall_10: float, remedy: str) -> None:
    (found,) = align_symptoms([EPOCH], SETTINGS, record(recall_5, recall_10))
    assert found.startswith(f"Recall@10 on validation fell from 0.0800 to {recall_10:.4f} (± 0.0010)")
    assert remedy in found
    assert align_symptoms([EPOCH], SETTINGS, record(recall_5, recall_10, error=0.1)) == []


def pretrained(*quality: float, **last: float) -> list[dict[str, float]]:
    rows = [{"loss": loss, "validation_ndcg@10": value} for loss, value in zip((5.0, 4.0), quality, strict=True)]
    rows[0]["popularity_ndcg@10"] = 0.05
    rows[-1] |= last
    return rows


def test_pretraining_is_judged_by_popularity_by_lists_and_by_the_trend_of_its_loss() -> None:
    assert pretrain_symptoms(pretrained(0.10, 0.102)) == []
    (found,) = pretrain_symptoms(pretrained(0.03, 0.04), settings={"loop": {"learning_rate": 0.3}})
    assert "0.0400 at best, that of popularity 0.0500" in found
    assert "learning_rate (now 0.3)" in found
    (found,) = pretrain_symptoms(pretrained(0.10, 0.102, **{"validation_list_overlap@10": 0.9}))
    assert "two users share 90% of the first ten items of their lists" in found
    (found,) = pretrain_symptoms(pretrained(0.10, 0.102), paths_overlap=0.8)
    assert "the first ten items of their paths" in found
    growing = [{"loss": 2.0 * 1.03**step} for step in range(8)]
    noisy = [{"loss": 2.0 + 0.3 * (-1) ** step} for step in range(8)]
    (found,) = pretrain_symptoms(pretrained(0.10, 0.102), growing)
    assert "diverges" in found
    assert pretrain_symptoms(pretrained(0.10, 0.102), noisy) == []
