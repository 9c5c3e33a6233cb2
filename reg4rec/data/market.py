"""A synthetic market of any size: a log from a known distribution with the traits of real ones, streamed to Parquet."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.sequences import Sequences
from reg4rec.settings import check_settings
from reg4rec.writing import atomic_folder

__all__ = ["Market", "MarketConfig", "MarketOracle"]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

USERS_AT_ONCE, ITEMS_AT_ONCE = 1 << 15, 1 << 17
"""Chunk sizes; each chunk has its own seed, so a part of a log can be drawn without the rest."""
TRIES = 32
"""Draws for a next item before the user stops; a draw fails if the user has the item or it is not on sale that day."""
WORDS, STYLES = 3000, 60
"""Sizes of the two vocabularies of titles."""
DAY = 86_400
FIRST_DAY = 1_262_304_000
"""1 January 2010, in seconds."""
COMPANIONS = (("leaf", 0.5), ("leaf", 0.2), ("brand", 0.2), ("top", 0.1))
"""The group from which each companion of an item is drawn, and its share of `follow`."""


@dataclass(frozen=True)
class MarketConfig:
    """Sizes and statistics of a market; the defaults imitate Amazon's Beauty."""

    num_users: int = 22_363
    num_items: int = 12_101
    mean_length: float = 8.9
    """mean number of interactions per user; every user has at least `min_length`"""
    min_length: int = 5
    max_length: int = 200
    leaf_size: int = 50
    """mean number of items in a category of the lowest level; five of these form a category of the level above"""
    exponent: float = 0.7
    """Zipf-Mandelbrot law: demand for the item of popularity rank r is proportional to (r + 20)^-exponent"""
    follow: float = 0.1
    """probability that the next item is one of the four companions of the last one"""
    own_category: float = 0.3
    """probability that it comes from the category of an item in the history, drawn uniformly"""
    own_brand: float = 0.12
    """probability that it has the brand of the last item; otherwise it is drawn by popularity"""
    same_day: float = 0.45
    """probability that two consecutive interactions of a user are on the same day"""
    days: int = 1_800
    """length of the log in days"""
    lifetime: float = 600.0
    """days in which demand for an item falls to 1 / e; items appear throughout the log"""
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.follow, self.own_category, self.own_brand, self.same_day)
        check_settings(
            self,
            ("num_users", self.num_users >= 1, "1 or more"),
            ("num_items", 2 * self.leaf_size <= self.num_items < 2**31, "two categories or more, and below 2^31"),
            ("leaf_size", self.leaf_size >= 4, "4 or more"),
            ("min_length", 1 <= self.min_length < self.mean_length, "1 or more and below mean_length"),
            ("max_length", self.mean_length < self.max_length < self.num_items, "above mean_length, below num_items"),
            ("exponent", self.exponent >= 0, "0 or more"),
            ("follow", min(shares) >= 0 and sum(shares[:3]) <= 1, "0 or more, with the other shares at most 1"),
            ("same_day", self.same_day < 1, "below 1"),
            ("days", self.days >= 1, "1 or more"),
            ("lifetime", self.lifetime > 0, "above 0 days"),
            ("seed", self.seed >= 0, "0 or more"),
        )


class Market:
    """Items, and the distribution of users' next items; the same configuration gives the same market.

    The probability of an item i not in history h on day t is proportional to m(i | h) f(i, t). m mixes companions of
    the last item, a category of the history, the brand of the last item and popularity; f is 0 before the item appears
    and falls with its age. Item ids are 0..I-1 in random order.
    """

    def __init__(self, config: MarketConfig = MarketConfig()):
        self.config = config
        rng, count = np.random.default_rng((config.seed, 0)), config.num_items
        sizes_X = np.arange(5.0, 5.0 + max(2, count // config.leaf_size)) ** -0.5
        leaves = rng.permutation(len(sizes_X)).astype(np.int32)
        self.leaf_I = np.sort(leaves[np.searchsorted(np.cumsum(sizes_X / sizes_X.sum())[:-1], rng.random(count))])
        self.brand_I = (rng.zipf(1.6, size=count) + 7 * (self.leaf_I // 5)).astype(np.int32) % max(2, count // 8)
        self.demand_I = np.arange(21.0, count + 21) ** -config.exponent
        rng.shuffle(self.demand_I)
        self.born_I = (rng.random(count) * config.days - config.lifetime / 2).astype(np.float32)
        words_X = 1 / np.arange(10.0, 10.0 + WORDS)
        self._words_X = np.cumsum(words_X / words_X.sum())[:-1]
        # rows are sorted by category, so a category is a range of rows; the ids are shuffled
        self.id_I = rng.permutation(count).astype(np.int32)
        self._by_leaf, self._by_top = (
            _Groups.of(self.leaf_I, self.demand_I),
            _Groups.of(self.leaf_I // 5, self.demand_I),
        )
        self._by_brand = _Groups.of(self.brand_I, self.demand_I)
        self._all = _Groups.of(np.zeros(count, dtype=np.int32), self.demand_I)
        groups = {"leaf": self._by_leaf, "brand": self._by_brand, "top": self._by_top}
        rows_I = np.arange(count)
        self.companions_I4 = np.stack([groups[name].draw(rng, rows_I) for name, _ in COMPANIONS], axis=1)

    def items(self) -> Iterator[pa.Table]:
        """Yield tables of items in order of id: `item_id`, `title`, `brand`, `categories`."""
        row_of = np.argsort(self.id_I)
        for first in range(0, len(row_of), ITEMS_AT_ONCE):
            rows = row_of[first : first + ITEMS_AT_ONCE]
            rng = np.random.default_rng((self.config.seed, 1, first))
            leaves, brands = self.leaf_I[rows].tolist(), self.brand_I[rows].tolist()
            words_IT = np.searchsorted(self._words_X, rng.random((len(rows), 5))).tolist()
            styles_IT = np.searchsorted(
                self._words_X[:STYLES] / self._words_X[STYLES], rng.random((len(rows), 3))
            ).tolist()
            titles = [
                f"brand{brand} {_name(leaf)} "
                + " ".join([*map("style{}".format, styles), *map("word{}".format, words)])
                for leaf, brand, styles, words in zip(leaves, brands, styles_IT, words_IT, strict=True)
            ]
            yield pa.table(
                {
                    "item_id": pa.array(np.arange(first, first + len(rows))),
                    "title": titles,
                    "brand": [f"brand{brand}" for brand in brands],
                    "categories": [["market", f"department{leaf // 5}", _name(leaf)] for leaf in leaves],
                }
            )

    def interactions(self) -> Iterator[pa.Table]:
        """Yield tables of interactions by user, oldest first: `user_id`, `item_id`, `timestamp` (seconds)."""
        for first in range(0, self.config.num_users, USERS_AT_ONCE):
            items_X, days_X, lengths_B = self._users(first, min(USERS_AT_ONCE, self.config.num_users - first))
            user_X = np.repeat(np.arange(first, first + len(lengths_B)), lengths_B)
            seconds_X = FIRST_DAY + days_X.astype(np.int64) * DAY
            yield pa.table({"user_id": user_X, "item_id": self.id_I[items_X].astype(np.int64), "timestamp": seconds_X})

    def write(self, folder: str | Path) -> None:
        """Write `items.parquet` and `interactions.parquet` for `read_interactions`, with bounded memory."""
        with atomic_folder(folder, "interactions.parquet") as fresh:
            for name, tables in (("items", self.items()), ("interactions", self.interactions())):
                first = next(tables)
                with pq.ParquetWriter(fresh / f"{name}.parquet", first.schema, compression="zstd") as writer:
                    writer.write_table(first)
                    for table in tables:
                        writer.write_table(table)

    def dataset(self) -> Dataset:
        """The whole log in memory; row i of the items has id i."""
        tables = list(self.interactions())
        log = pa.concat_tables(tables)
        users, lengths = np.unique(log["user_id"].to_numpy(), return_counts=True)
        return Dataset.build(
            "synthetic-market",
            pa.array(users),
            Sequences(np.concatenate([[0], np.cumsum(lengths)]), log["item_id"].to_numpy().astype(np.int32)),
            ItemCatalog.from_table(pa.concat_tables(self.items())),
            card={"source": "synthetic market", **asdict(self.config)},
            times=log["timestamp"].to_numpy(),
        )

    def next_probabilities(self, ids: npt.ArrayLike, day: float | None = None) -> Float64:
        """The probability of every item (by id) to come next, (I,), after a history of ids, oldest first.

        `day` is counted from the start of the log; None ignores that items appear and age.
        """
        rows, c = self._row_of_id[np.asarray(ids, dtype=np.int64)], self.config
        law_I = (1 - c.follow - c.own_category - c.own_brand) * self.demand_I / self.demand_I.sum()
        if len(rows):
            for place, (_, share) in enumerate(COMPANIONS):
                law_I[self.companions_I4[rows[-1], place]] += c.follow * share
            for row in rows:
                members = self.leaf_I == self.leaf_I[row]
                law_I[members] += c.own_category / len(rows) * self.demand_I[members] / self.demand_I[members].sum()
            members = self.brand_I == self.brand_I[rows[-1]]
            law_I[members] += c.own_brand * self.demand_I[members] / self.demand_I[members].sum()
            law_I[rows] = 0
        law_I = law_I if day is None else law_I * self._freshness(np.arange(c.num_items), np.full(1, day))
        return np.asarray(law_I[self._row_of_id] / law_I.sum())

    @property
    def oracle(self) -> "MarketOracle":
        """A ranker that knows the distribution, but not the day."""
        return MarketOracle(self)

    @cached_property
    def _row_of_id(self) -> Int64:
        return np.argsort(self.id_I)

    def _freshness(self, rows: Int64, day_X: npt.NDArray[Any]) -> Float64:
        age_X = day_X - self.born_I[rows]
        return np.asarray(np.where(age_X >= 0, np.exp(-np.maximum(age_X, 0) / self.config.lifetime), 0.0))

    def _users(self, first: int, count: int) -> tuple[Int64, npt.NDArray[np.int32], Int64]:
        """Item rows and days of `count` users from `first` on, user by user, and their number of interactions."""
        c, rng = self.config, np.random.default_rng((self.config.seed, 2, first))
        # longest users first, so that the active ones are always a prefix
        more = np.exp(rng.normal(size=count)) * (c.mean_length - c.min_length) / np.exp(0.5)
        lengths_B = np.sort(np.minimum(c.min_length + more.round().astype(np.int64), c.max_length))[::-1].copy()
        rows_BL = np.full((count, lengths_B[0]), -1, dtype=np.int64)
        days_BL = np.zeros((count, lengths_B[0]), dtype=np.int32)
        day_B = rng.random(count) * 0.9 * c.days
        pause_B = (c.days - day_B) / (1 + lengths_B)
        for step in range(lengths_B[0]):
            going = np.searchsorted(-lengths_B, -step)
            if step:
                later = rng.random(going) >= c.same_day
                day_B[:going] += later * (1 + rng.exponential(pause_B[:going]))
            days_BL[:going, step] = day_B[:going]
            asking = np.flatnonzero((rows_BL[:going, step - 1] >= 0) | (step == 0))
            asking = asking[day_B[asking] < c.days]
            for _ in range(TRIES):
                drawn = self._mixed(rng, rows_BL[asking, :step])
                new = (rows_BL[asking, :step] != drawn[:, None]).all(1)
                taken = new & (rng.random(len(asking)) < self._freshness(drawn, day_B[asking]))
                rows_BL[asking[taken], step] = drawn[taken]
                if not len(asking := asking[~taken]):
                    break
        order = rng.permutation(count)
        rows_BL, days_BL = rows_BL[order], days_BL[order]
        filled_BL = rows_BL >= 0
        return rows_BL[filled_BL], days_BL[filled_BL], filled_BL.sum(1)

    def _mixed(self, rng: np.random.Generator, rows_BL: Int64) -> Int64:
        """Draw an item for each history from the mixture m, regardless of the day."""
        c, (count, step) = self.config, rows_BL.shape
        if step == 0:
            return self._all.draw(rng, np.zeros(count, dtype=np.int64))
        found, way, last = np.empty(count, dtype=np.int64), rng.random(count), rows_BL[:, -1]
        ends = np.cumsum([c.follow, c.own_category, c.own_brand])
        shares = np.cumsum([share for _, share in COMPANIONS])
        places = np.asarray(np.searchsorted(shares[:-1], rng.random(count)))
        before = rows_BL[np.arange(count), rng.integers(step, size=count)]
        for part, choose in (
            (way >= ends[2], lambda some: self._all.draw(rng, last[some])),
            (way < ends[0], lambda some: self.companions_I4[last[some], places[some]]),
            ((way >= ends[0]) & (way < ends[1]), lambda some: self._by_leaf.draw(rng, before[some])),
            ((way >= ends[1]) & (way < ends[2]), lambda some: self._by_brand.draw(rng, last[some])),
        ):
            found[part] = choose(part)
        return found


@dataclass(frozen=True)
class MarketOracle:
    """Ranks by the distribution of a market without the day: nearly the best that a model of histories can do."""

    market: Market
    name = "oracle"
    trained_on = "train"

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """Item rows (B, k), padded with -1; no user buys an item twice, so seen items are never ranked."""
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        for row in range(len(histories)):
            law_I = self.market.next_probabilities(histories[row])
            best = np.argsort(-law_I, kind="stable")[:k]
            ranked_BN[row, : len(best)] = np.where(law_I[best] > 0, best, -1)
        return ranked_BN


@dataclass(frozen=True)
class _Groups:
    """Items in groups, with cumulative demand, so that an item of a group is drawn by bisection."""

    order_I: Int64
    ends_I: Float64
    first_X: Int64
    group_I: npt.NDArray[np.int32]

    @classmethod
    def of(cls, group_I: npt.NDArray[np.int32], demand_I: Float64) -> "_Groups":
        order_I = np.argsort(group_I, kind="stable")
        first_X = np.searchsorted(group_I[order_I], np.arange(int(group_I.max()) + 2))
        return cls(order_I, np.concatenate([[0.0], np.cumsum(demand_I[order_I])]), first_X, group_I)

    def draw(self, rng: np.random.Generator, rows: Int64) -> Int64:
        """Draw, for each row, an item of its group in proportion to demand."""
        group = self.group_I[rows]
        low, high = self.ends_I[self.first_X[group]], self.ends_I[self.first_X[group + 1]]
        place = np.searchsorted(self.ends_I, low + rng.random(len(rows)) * (high - low), side="right") - 1
        return np.asarray(self.order_I[np.clip(place, self.first_X[group], self.first_X[group + 1] - 1)])


def _name(leaf: int) -> str:
    """A category name of two words that it shares with other categories, as in real shops."""
    return f"noun{leaf % 23} use{leaf // 23 % 17}"
