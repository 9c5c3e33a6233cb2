"""The synthetic market: it follows the law that it states, and its log looks like real ones."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from reg4rec.baselines import ItemKNN
from reg4rec.cli import main
from reg4rec.data import Dataset, Market, MarketConfig, read_interactions
from reg4rec.data import market as market_module
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, evaluate

SMALL = MarketConfig(num_users=3000, num_items=600, leaf_size=20, max_length=60)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(SMALL)


@pytest.fixture(scope="module")
def data(market: Market) -> Dataset:
    return market.dataset()


def drawn_next(market: Market, history: list[int], count: int) -> npt.NDArray[np.int64]:
    """Ids that the market itself draws after a history of ids on the last day."""
    rng, rows_L = np.random.default_rng(1), np.argsort(market.id_I)[history]
    rows_BL = np.tile(rows_L, (count, 1))
    found = market._mixed(rng, rows_BL)
    taken = ~np.isin(found, rows_L)
    taken &= rng.random(count) < market._freshness(found, np.full(count, float(SMALL.days)))
    return np.asarray(market.id_I[found[taken]], dtype=np.int64)


def test_items_follow_by_the_law(market: Market) -> None:
    """Chi square of the draws after a history, over the 60 likeliest items and all others together."""
    history = [7, 300, 41, 7 + 90]
    law_I = market.next_probabilities(history, day=SMALL.days)
    ids = drawn_next(market, history, 400_000)
    likely = np.argsort(-law_I)[:60]
    expected = np.append(law_I[likely], 1 - law_I[likely].sum()) * len(ids)
    counts = np.bincount(ids, minlength=SMALL.num_items)
    found = np.append(counts[likely], len(ids) - counts[likely].sum())
    assert ((found - expected) ** 2 / expected).sum() < 100  # 60 degrees of freedom: exceeded in one case of 1,000
    assert law_I[history].sum() == 0
    assert counts[history].sum() == 0
    assert law_I.sum() == pytest.approx(1)
    assert not np.allclose(law_I, market.next_probabilities(history))


def test_the_log_has_the_habits_of_real_ones(market: Market, data: Dataset) -> None:
    lengths, items = data.sequences.lengths, data.sequences.items
    assert lengths.mean() == pytest.approx(SMALL.mean_length, rel=0.05)
    assert lengths.max() <= SMALL.max_length
    assert all(len(set(data.sequences[u])) == len(data.sequences[u]) for u in range(data.num_users))
    assert data.card["tied_times"]["share"] == pytest.approx(SMALL.same_day, abs=0.03)
    assert not data.card["tied_times"]["in_order_of_ids"]
    counts = np.sort(np.bincount(items, minlength=SMALL.num_items))
    assert counts[-6:].sum() > 5 * counts[:300].mean() * 6
    titles = data.items.table["title"].to_pylist()
    assert max(Counter(titles).values()) < 5
    assert data.items.table.column_names[:2] == ["item_id", "title"]
    assert len(data.items.category_names) > 1


def test_who_knows_the_law_ranks_best(market: Market, data: Dataset) -> None:
    rankers: list[Ranker] = [market.oracle, ItemKNN.fit(data), Popularity.fit(data)]
    best, neighbors, popular = (row.metrics["ndcg@10"] for row in evaluate(rankers, data, max_users=400).rows)
    assert best > 1.3 * neighbors
    assert neighbors > 1.5 * popular


def test_files_are_those_of_the_dataset_whatever_is_drawn_together(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--num-users", "3000", "--num-items", "600", "--leaf-size", "20", "--max-length", "60"]
    main(["data", "market", "--out", str(tmp_path / "market"), *words])
    read = read_interactions(
        tmp_path / "market" / "interactions.parquet", tmp_path / "market" / "items.parquet", min_interactions=1
    )
    log = pl.read_parquet(tmp_path / "market" / "interactions.parquet")
    assert log.height == len(data.sequences.items)
    assert log.columns == ["user_id", "item_id", "timestamp"]
    assert read.num_users == data.num_users
    assert log["item_id"].to_list() == data.sequences.items.tolist()
    monkeypatch.setattr(market_module, "USERS_AT_ONCE", 1000)
    parts = list(Market(SMALL).interactions())
    assert len(parts) == 3
    assert parts[0]["user_id"].to_pylist()[-1] < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 50}, "num_items is 50; it must be two categories or more"),
        ({"follow": 0.9}, "follow is 0.9"),
        ({"mean_length": 4.0}, "min_length is 5; it must be 1 or more and below mean_length"),
        ({"lifetime": 0.0}, "lifetime is 0.0; it must be above 0 days"),
    ],
)
def test_impossible_markets_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MarketConfig(**change)  # type: ignore[arg-type]
