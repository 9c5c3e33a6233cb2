"""A healthy run is called healthy; each failure is recognized by its own signs and named with its remedy."""

import pytest

from reg4rec.train.symptoms import align_symptoms

BEFORE = {"validation_recall@5": 0.05, "validation_recall@10": 0.08, "validation_recall@50": 0.2}
FIRST = {
    "reward": 0.30,
    "dead_groups": 0.05,
    "path_diversity": 0.8,
    "entropy": 2.0,
    "reward_step_consistency": 0.6,
    "top_category": 0.2,
    "kl": 0.02,
    **BEFORE,
}
HEALTHY = FIRST | {"reward": 0.36, "entropy": 1.7, "kl": 0.1, "validation_recall@10": 0.085}


def test_a_healthy_run_is_called_healthy() -> None:
    assert align_symptoms(BEFORE, [FIRST, HEALTHY]) == []


@pytest.mark.parametrize(
    ("signs", "name", "remedy"),
    [
        ({"reward": 0.301}, "plateau", "learning_rate"),
        ({"dead_groups": 0.7}, "teach nothing", "group_size"),
        ({"validation_recall@10": 0.07}, "too narrowly", "window"),
        ({"path_diversity": 0.3}, "collapse", "kl_weight"),
        ({"entropy": 0.3}, "collapse", "kl_weight"),
        ({"reward_step_consistency": 0.9, "top_category": 0.8}, "one category", "step_consistency"),
        ({"kl": 1.4}, "away from", "kl_weight"),
    ],
)
def test_each_failure_is_named_with_its_remedy(signs: dict[str, float], name: str, remedy: str) -> None:
    (found,) = align_symptoms(BEFORE, [FIRST, HEALTHY | signs])
    assert name in found
    assert remedy in found


def test_top_5_falling_with_top_10_is_no_sign_of_a_narrow_window() -> None:
    both = HEALTHY | {"validation_recall@5": 0.043, "validation_recall@10": 0.07}
    assert align_symptoms(BEFORE, [FIRST, both]) == []
