"""The synthetic shop: deterministic, consistent with its law, and its oracle is right."""

from itertools import pairwise

import numpy as np
import pytest

from reg4rec.data import Dataset, synthetic_shop
from reg4rec.errors import InputError


def test_same_seed_same_shop() -> None:
    prints = [synthetic_shop(num_users=20, seed=seed).card["fingerprint"] for seed in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]


def test_text_and_category_follow_the_facets() -> None:
    shop = synthetic_shop(num_users=5, num_items=40, num_facets=3, num_values=4)
    words = shop.items.texts(("title",))[7].split()
    assert words == [f"facet{f}value{v}" for f, v in enumerate(shop.facets_IX[7])]
    assert shop.items.category_names[shop.items.categories_I[7]] == " > ".join(words[:2])
    assert len(np.unique(shop.facets_IX, axis=0)) == 40


def test_nobody_buys_twice_and_lengths_are_kept() -> None:
    shop = synthetic_shop(num_users=50, min_length=3, max_length=5)
    assert {3, 4, 5} == set(shop.sequences.lengths.tolist())
    assert all(len(set(shop.sequences[u])) == len(shop.sequences[u]) for u in range(50))


def test_probabilities_are_those_of_bayes_over_intents() -> None:
    shop = synthetic_shop(num_users=2, num_items=6, num_facets=2, num_values=3, min_length=3, max_length=5)
    history = [4, 0, 2]
    expected = np.zeros(6)
    for law in shop.transitions_XII:
        path, seen = 1.0, [history[0]]
        for a, b in pairwise(history):
            path *= law[a, b] / np.delete(law[a], seen).sum()
            seen.append(b)
        rest = np.array([0.0 if i in seen else law[history[-1], i] for i in range(6)])
        expected += path * rest / rest.sum()
    np.testing.assert_allclose(shop.next_probabilities(history), expected / expected.sum(), rtol=1e-9)
    assert shop.best_next(history).tolist() == [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]


def test_claimed_probabilities_match_what_users_do() -> None:
    shop = synthetic_shop(num_users=3000, num_items=50, num_facets=3, seed=5)
    users, targets = shop.targets("test")
    histories = shop.part("train+validation").take(users)
    claimed = np.array([shop.next_probabilities(histories[b]).max() for b in range(len(users))])
    hit = np.array([shop.best_next(histories[b])[0] for b in range(len(users))]) == targets
    assert abs(claimed.mean() - hit.mean()) < 4 * np.sqrt(claimed.mean() / len(users))


def test_a_shop_is_a_dataset_and_bad_sizes_are_refused() -> None:
    assert isinstance(synthetic_shop(num_users=3), Dataset)
    with pytest.raises(InputError, match="give 2 to"):
        synthetic_shop(num_items=200, num_facets=2)
    with pytest.raises(InputError, match="must rise from 1"):
        synthetic_shop(min_length=9, max_length=3)
