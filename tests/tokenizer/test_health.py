"""Health on examples computed by hand, and the verdicts on it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from reg4rec.data import Sequences
from reg4rec.tokenizer import Floors, Health
from reg4rec.tokenizer.health import (
    mean_cosine,
    measure_health,
    normalized_mutual_information,
    perplexities,
    relative_error,
    shared_tokens,
    similarities,
    usage,
)
from reg4rec.tokenizer.verdict import collapse_reason, health_warnings

CODES_IM = np.array([[0, 0], [0, 0], [1, 0], [2, 3]], dtype=np.int32)


def test_usage_and_perplexity_by_hand() -> None:
    assert usage(CODES_IM, 4) == [0.75, 0.5]
    entropies = [0.5 * math.log(2) + 0.5 * math.log(4), 0.75 * math.log(4 / 3) + 0.25 * math.log(4)]
    assert perplexities(CODES_IM) == pytest.approx([math.exp(h) for h in entropies])


def test_mutual_information_by_hand() -> None:
    a = np.array([0, 0, 1, 1])
    assert normalized_mutual_information(a, np.array([5, 5, 2, 2])) == pytest.approx(1)
    assert normalized_mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    # b splits one half of a: I = ln 2, H(a) = ln 2, H(b) = 1.5 ln 2
    assert normalized_mutual_information(a, np.array([0, 0, 1, 2])) == pytest.approx(2 / 2.5)
    assert normalized_mutual_information(np.zeros(4, int), np.zeros(4, int)) == 0


def test_similarity_is_corrected_for_chance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 64, (2, 1000))
    assert normalized_mutual_information(a, b) > 0.3
    table = similarities(np.stack([a, b, (a + 7) % 64], axis=1))
    assert table[0][1] < 0.03
    assert table[0][2] == pytest.approx(1)
    assert table[2][0] == table[0][2]


def test_reconstruction_by_hand() -> None:
    vectors_IV = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert relative_error(vectors_IV, vectors_IV) == 0
    assert relative_error(vectors_IV, np.full((2, 2), 0.5)) == pytest.approx(1)
    assert mean_cosine(vectors_IV, np.array([[3.0, 0.0], [1.0, 1.0]])) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert mean_cosine(vectors_IV, np.zeros((2, 2))) == 0


def test_shared_tokens_by_hand() -> None:
    train = Sequences.from_lists([[0, 1, 2], [3], [3, 0]])
    # neighbors: (0, 1) share both tokens, (1, 2) one, (3, 0) none
    by_neighbors, by_chance = shared_tokens(CODES_IM, train)
    assert by_neighbors == 1
    assert by_chance is not None
    assert shared_tokens(CODES_IM, Sequences.from_lists([[0], [1]])) == (None, None)


def measured(codes_IM: np.ndarray, vectors_IV: np.ndarray, codebook_size: int = 4) -> Health:
    gate_mean_M = np.full(codes_IM.shape[1], 1 / codes_IM.shape[1])
    return measure_health(codes_IM, codes_IM, vectors_IV, vectors_IV, gate_mean_M, codebook_size)


def test_a_whole_report_by_hand() -> None:
    vectors_IV = np.array([[1.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    nearest_IM = np.array([[0, 0], [0, 0], [0, 0], [2, 3]], dtype=np.int32)
    health = measure_health(CODES_IM, nearest_IM, vectors_IV, vectors_IV, np.array([0.25, 0.75]), 4)
    assert health.attainable == 3
    assert health.usage == pytest.approx([1, 2 / 3])
    assert (health.collision_rate, health.collision_rate_nearest, health.collision_rate_identical) == (0.5, 0.75, 0.5)
    assert health.moved_rate == 0.25
    assert health.buckets == {"1": 2, "2": 1}
    assert health.gate_mean == [0.25, 0.75]
    assert (health.relative_error, health.rebuilt_spread) == (0, 1)
    assert health.cosine == pytest.approx(1)


def healthy() -> Health:
    rng = np.random.default_rng(0)
    codes_IM = np.stack([rng.permutation(np.arange(400) % 8) for _ in range(4)], axis=1)
    return replace(measured(codes_IM, rng.normal(size=(400, 3)), 8), collision_rate=0.0)


def test_a_healthy_tokenizer_has_no_complaint() -> None:
    assert health_warnings(healthy()) == []
    assert collapse_reason(healthy(), Floors()) is None


@pytest.mark.parametrize(
    ("ill", "words"),
    [
        ({"usage": [1.0, 0.3, 1.0, 1.0]}, ("codebook 1", "30.0%", "codebook_size")),
        ({"gate_mean": [0.005, 0.005, 0.0, 0.99]}, ("expert 3", "99.0%", "learning_rate")),
        ({"similarity": [[1.0, 0.95], [0.95, 1.0]], "usage": [1.0, 1.0]}, ("copies", "0.950", "orthogonality")),
        ({"collision_rate": 0.97}, ("97.0%", "share all tokens", "num_codebooks")),
        ({"relative_error": 2.5}, ("mean vector", "2.500", "learning_rate")),
        ({"rebuilt_spread": 0.001}, ("same vector", "0.0010", "learning_rate")),
        ({"relative_error": math.nan}, ("mean vector", "nan", "learning_rate")),
    ],
)
def test_each_collapse_names_what_was_found_and_the_remedy(ill: dict, words: tuple[str, ...]) -> None:
    reason = collapse_reason(replace(healthy(), **ill), Floors())
    assert reason is not None
    assert all(word in reason for word in words)


def test_identical_vectors_are_no_collapse_but_a_warning() -> None:
    ill = replace(healthy(), collision_rate=0.97, collision_rate_identical=0.97)
    assert collapse_reason(ill, Floors()) is None
    assert any("same vector" in text for text in health_warnings(ill))


def test_a_large_codebook_for_a_small_catalog_is_a_warning_that_names_a_better_size() -> None:
    health = replace(healthy(), codebook_size=128, attainable=128)
    assert any("codebook_size=32" in text for text in health_warnings(health))
