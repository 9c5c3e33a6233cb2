"""Standard errors of means and differences."""

import numpy as np
import pytest

from reg4rec.statistics import by_user, error_of_mean, is_higher, paired_interval


def test_a_gain_within_its_error_is_none() -> None:
    before_B = np.zeros(100)
    some_B, few_B = before_B.copy(), before_B.copy()
    some_B[:11], some_B[11:13] = 1.0, -1.0  # 0.09 on average, 2.6 times its error
    few_B[:9], few_B[9:11] = 1.0, -1.0
    assert is_higher(some_B, before_B, 2.5)
    assert not is_higher(few_B, before_B, 2.5)  # 0.07 on average, 2.2 times its error
    assert not is_higher(before_B, before_B, 2.5)
    assert is_higher(before_B + 0.001, before_B, 2.5)  # all agree


def test_the_error_of_a_mean_counts_users_and_not_values() -> None:
    draw = np.random.default_rng(0)
    values_B = draw.normal(size=1000)
    assert error_of_mean(values_B) == pytest.approx(values_B.std() / 1000**0.5)
    # each user's values are the same four times: as sure as one of them
    users_B = np.repeat(np.arange(250), 4)
    assert error_of_mean(values_B[users_B], users_B) == pytest.approx(values_B[:250].std() / 250**0.5)


def test_an_interval_holds_the_mean_of_most_samples() -> None:
    rng, holds = np.random.default_rng(0), 0
    for seed in range(100):
        values_B = rng.normal(0.3, 1.0, 200)
        mean, low, high = paired_interval(values_B, np.zeros(200), seed)
        assert mean == pytest.approx(values_B.mean())
        holds += low <= 0.3 <= high
    assert 88 <= holds <= 99
    assert paired_interval(np.ones(5), np.ones(5)) == (0, 0, 0)


def test_values_of_a_user_that_go_together_are_one() -> None:
    draw = np.random.default_rng(0)
    users_B, yes = np.repeat(np.arange(40), 25), 0
    for _ in range(200):
        gain_B = draw.normal(size=40)[users_B] + 0.1 * draw.normal(size=1000)
        values_B = by_user(gain_B, users_B)
        assert values_B.mean() == pytest.approx(gain_B.mean())
        yes += is_higher(values_B, np.zeros(40), 2.0)
    assert yes <= 14  # 2.3 % are expected of chance
    assert not is_higher(np.ones(1), np.zeros(1), 2.0)
