"""A synthetic shop with known best recommendations."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.events import Kinds, check_weights
from reg4rec.data.sequences import Sequences
from reg4rec.errors import InputError

__all__ = ["ShopOracle", "SyntheticShop", "synthetic_shop", "with_views"]

Float64 = npt.NDArray[np.float64]

LIKELY = 0.8
"""Probability that a facet value is followed by its successor; the rest is uniform over all values."""


@dataclass(frozen=True, eq=False, repr=False)
class SyntheticShop(Dataset):
    """A dataset drawn from a known distribution, which `best_next` and `oracle` use.

    An item is a combination of facet values (`facets_IX`). Every user has one hidden intent: a facet that tends to
    keep its value from item to item, while the other facets follow a fixed permutation. No user buys an item twice.
    `transitions_XII[f]` are the unnormalized probabilities of the next item under intent f.
    """

    facets_IX: npt.NDArray[np.int32] = field(kw_only=True)
    transitions_XII: Float64 = field(kw_only=True)

    def next_probabilities(self, history: npt.ArrayLike) -> Float64:
        """The true probability of every item to come next, (I,), given the history (item rows, oldest first)."""
        rows = np.asarray(history, dtype=np.int64)
        intents, unseen = len(self.transitions_XII), np.ones(self.num_items)
        log_posterior_X = np.zeros(intents)
        next_XI = np.full((intents, self.num_items), 1 / self.num_items)
        for step, item in enumerate(rows):
            log_posterior_X += np.log(next_XI[:, item]) if step else 0.0
            unseen[item] = 0
            next_XI = self.transitions_XII[:, item] * unseen
            next_XI = next_XI / next_XI.sum(axis=1, keepdims=True)
        posterior_X = np.exp(log_posterior_X - log_posterior_X.max())
        return np.asarray(posterior_X @ next_XI / posterior_X.sum())

    def best_next(self, history: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Unseen item rows by their true probability to come next, best first, ties by lowest row."""
        probabilities = self.next_probabilities(history)
        order = np.argsort(-probabilities, kind="stable")
        return order[probabilities[order] > 0].astype(np.int32)

    @property
    def oracle(self) -> "ShopOracle":
        """A ranker that knows the distribution: its Recall is the best possible."""
        return ShopOracle(self)


@dataclass(frozen=True)
class ShopOracle:
    """Ranks by the true probabilities of a shop."""

    shop: SyntheticShop
    name = "oracle"
    trained_on = "train"

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """Item rows (B, k), padded with -1; no user buys an item twice, so seen items are never ranked."""
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        for row in range(len(histories)):
            best = self.shop.best_next(histories[row])[:k]
            ranked_BN[row, : len(best)] = best
        return ranked_BN


def synthetic_shop(
    num_users: int = 500,
    num_items: int = 200,
    num_facets: int = 4,
    num_values: int = 5,
    min_length: int = 6,
    max_length: int = 12,
    seed: int = 0,
) -> SyntheticShop:
    """A shop whose items have facets; the same arguments give the same shop.

    Titles list the facet values, category paths the first two. Users buy `min_length` to `max_length` items.
    """
    if not 2 <= num_items <= num_values**num_facets:
        raise InputError(
            f"{num_facets} facets of {num_values} values give 2 to {num_values**num_facets} items, not {num_items}"
        )
    if not 1 <= min_length <= max_length < num_items:
        raise InputError(f"lengths {min_length} to {max_length} must rise from 1 to less than {num_items} items")
    rng = np.random.default_rng(seed)
    facets_IX = _draw_items(rng, num_items, num_facets, num_values)
    transitions_XII = _transitions(rng, facets_IX, num_values)
    histories = [
        _draw_user(rng, transitions_XII, int(rng.integers(min_length, max_length + 1))) for _ in range(num_users)
    ]
    return SyntheticShop.build(
        "synthetic-shop",
        pa.array([f"user{u}" for u in range(num_users)]),
        Sequences.from_lists(histories),
        ItemCatalog.from_table(_item_table(facets_IX)),
        card={"source": "synthetic_shop", "seed": seed, "facets": num_facets, "values": num_values},
        facets_IX=facets_IX,
        transitions_XII=transitions_XII,
    )


def with_views(
    shop: SyntheticShop, views: float = 2.0, taste: float = 0.5, purchase: float = 1.0, view: float = 0.2, seed: int = 0
) -> Dataset:
    """The shop's log with views before each purchase, and weights for the two kinds of events.

    `views` is the mean number of views per purchase. With probability `taste` a view is of an item similar to the next
    purchase (each shared facet makes it 16 times as likely), else of an item of the front page, which is the same for
    all users. Views of the item that is bought next are left out.
    """
    rng, bought_X = np.random.default_rng(seed), shop.sequences.items
    count_X = rng.poisson(views, len(bought_X))
    purchase_V = np.repeat(np.arange(len(bought_X)), count_X)
    near_II = 16.0 ** (shop.facets_IX[:, None] == shop.facets_IX).sum(2)
    np.fill_diagonal(near_II, 0)
    front_I = rng.permutation(1 / np.arange(1.0, shop.num_items + 1))
    likes_V = rng.random(len(purchase_V)) < taste
    seen_V = rng.choice(shop.num_items, size=len(purchase_V), p=front_I / front_I.sum())
    rising_II = np.cumsum(near_II / near_II.sum(1, keepdims=True), axis=1)
    for v in np.flatnonzero(likes_V):
        place = np.searchsorted(rising_II[bought_X[purchase_V[v]]], rng.random())
        seen_V[v] = np.minimum(place, shop.num_items - 1)
    kept_V = seen_V != bought_X[purchase_V]
    purchase_V, seen_V = purchase_V[kept_V], seen_V[kept_V]
    order = np.argsort(np.concatenate([purchase_V, np.arange(len(bought_X))]), kind="stable")
    before = np.concatenate([[0], np.cumsum(np.bincount(purchase_V, minlength=len(bought_X)) + 1)])
    weights = check_weights({"purchase": purchase, "view": view})
    rows = np.array([[*weights].index(kind) for kind in ("view", "purchase")], dtype=np.uint8)
    return Dataset.build(
        "synthetic-shop-with-views",
        shop.user_ids,
        Sequences(before[shop.sequences.offsets], np.concatenate([seen_V, bought_X])[order].astype(np.int32)),
        shop.items,
        card=shop.card | {"views": views, "taste": taste},
        kinds=Kinds(weights, rows.repeat([len(seen_V), len(bought_X)])[order]),
    )


def _draw_items(rng: np.random.Generator, num_items: int, num_facets: int, num_values: int) -> npt.NDArray[np.int32]:
    codes = rng.choice(num_values**num_facets, size=num_items, replace=False)
    digits = [(codes // num_values**f) % num_values for f in range(num_facets)]
    return np.stack(digits, axis=1).astype(np.int32)


def _transitions(rng: np.random.Generator, facets_IX: npt.NDArray[np.int32], num_values: int) -> Float64:
    """(X, I, I): under intent f, facet f keeps its value, every other facet moves by its cyclic permutation."""
    num_items, num_facets = facets_IX.shape
    sticky_TT = _peaked(np.arange(num_values), num_values)
    moves_XII, stays_XII = np.empty((2, num_facets, num_items, num_items))
    for f in range(num_facets):
        pairs = np.ix_(facets_IX[:, f], facets_IX[:, f])
        cycle = rng.permutation(num_values)
        successor = np.empty(num_values, dtype=np.int64)
        successor[cycle] = np.roll(cycle, -1)
        moves_XII[f], stays_XII[f] = _peaked(successor, num_values)[pairs], sticky_TT[pairs]
    everything = moves_XII.prod(axis=0)
    return everything / moves_XII * stays_XII


def _peaked(successor: npt.NDArray[np.int64], num_values: int) -> Float64:
    """(T, T): rows with probability LIKELY on the successor, the rest uniform."""
    matrix = np.full((num_values, num_values), (1 - LIKELY) / num_values)
    matrix[np.arange(num_values), successor] += LIKELY
    return matrix


def _draw_user(rng: np.random.Generator, transitions_XII: Float64, length: int) -> list[int]:
    intent_II = transitions_XII[rng.integers(len(transitions_XII))]
    items = [int(rng.integers(len(intent_II)))]
    unseen = np.ones(len(intent_II))
    while len(items) < length:
        unseen[items[-1]] = 0
        weights = intent_II[items[-1]] * unseen
        items.append(int(rng.choice(len(weights), p=weights / weights.sum())))
    return items


def _item_table(facets_IX: npt.NDArray[np.int32]) -> pa.Table:
    words = [[f"facet{f}value{v}" for f, v in enumerate(row)] for row in facets_IX.tolist()]
    columns: dict[str, Any] = {
        "item_id": [f"item{i}" for i in range(len(words))],
        "title": [" ".join(row) for row in words],
        "categories": pa.array([row[:2] for row in words], pa.list_(pa.string())),
    }
    return pa.table(columns)
