"""From a shop's two CSV exports to a nightly job: clean, fit, compare with item-kNN, recommend items in stock.

python examples/shop.py runs/shop-example

The exports are generated: shoppers with a hidden, drifting taste, titles with inch marks, categories as text, times in
the format of a data warehouse, and clicks of visitors without an id.
"""

import csv
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import reg4rec
from reg4rec.baselines import ItemKNN
from reg4rec.batch.job import recommend_to_folder
from reg4rec.data import Dataset

LEAVES = [f"{top} > {leaf}" for top in ("Shoes", "Bags", "Tents", "Pipes") for leaf in ("Trail", "City", "Kids", "Pro")]
BRANDS = ["Acme", "Bolt & Co", "Corvus", "Dell'Arte", "Elan", "Förde"]


def write_exports(folder: Path, num_users: int, num_items: int, seed: int = 0) -> None:
    """Write clicks.csv and items.csv like a shop's exports."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    leaf_I, brand_I = draw.integers(len(LEAVES), size=num_items), draw.integers(len(BRANDS), size=num_items)
    leaf_vectors, brand_vectors = draw.normal(size=(len(LEAVES), 16)), draw.normal(size=(len(BRANDS), 16))
    items_IV = leaf_vectors[leaf_I] + 0.7 * brand_vectors[brand_I] + 0.3 * draw.normal(size=(num_items, 16))
    liking_I = draw.normal(scale=0.5, size=num_items)
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sku", "title", "brand", "category"])
        for i in range(num_items):
            title = f'{BRANDS[brand_I[i]]} {LEAVES[leaf_I[i]].replace(" > ", " ")} no. {i}, {i % 30 + 5}" wide'
            rows.writerow([f"SKU{i:05}", title, BRANDS[brand_I[i]], LEAVES[leaf_I[i]]])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with (folder / "clicks.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["customer", "sku", "at"])
        for user in range(num_users):
            own, taste, seen = draw.normal(size=16), np.zeros(16), set[int]()
            moment = start + timedelta(minutes=int(draw.integers(10**5)))
            for _ in range(int(draw.integers(5, 25))):
                scores_I = items_IV @ (taste + 2 * own) / 10 + liking_I + draw.gumbel(size=num_items)
                scores_I[list(seen)] = -np.inf
                item = int(scores_I.argmax())
                seen.add(item)
                taste = 0.6 * taste + items_IV[item]
                moment += timedelta(minutes=int(draw.integers(1, 5000)))
                customer = f"c{user}" if draw.random() > 0.02 else ""
                rows.writerow([customer, f"SKU{item:05}", f"{moment:%Y-%m-%d %H:%M:%S} UTC"])


def best_item_knn(data: Dataset) -> ItemKNN:
    """The item-kNN with the best of 27 settings, by NDCG@10 on validation."""
    rankers = [
        ItemKNN.fit(data, neighbors=neighbors, decay=decay, shrink=shrink)
        for neighbors in (20, 50, 200)
        for decay in (1.0, 0.8, 0.6)
        for shrink in (0.0, 5.0, 20.0)
    ]
    rows = reg4rec.evaluate(rankers, data, "validation", "filtered").rows
    return rankers[int(np.argmax([row.metrics["ndcg@10"] for row in rows]))]


def main(folder: str, num_users: int = 1500, num_items: int = 400, epochs: int | None = None) -> dict[str, float]:
    place = Path(folder)
    write_exports(place / "exports", num_users, num_items)
    clicks, items = place / "exports" / "clicks.csv", place / "exports" / "items.csv"

    data = reg4rec.read_interactions(
        clicks, items, user="customer", item="sku", time="at", brand="brand", categories="category"
    )
    for what in ("rows_without_ids", "tied_times", "dropped"):
        print(what, data.card.get(what))

    recipe = reg4rec.RECIPES["default"].sized_for(data.num_items)
    if epochs is not None:
        recipe = recipe.change(pretrain={"epochs": epochs})
    rec = reg4rec.fit(data, recipe=recipe, out=place / "run")
    report = reg4rec.evaluate([best_item_knn(data), rec], data, "test", "filtered")
    print(report.table())

    in_stock = rec.items.ids.to_pylist()[::2]
    one = rec.recommend({"anna": rec.items.ids.to_pylist()[:3]}, k=5, candidates=[*in_stock, "SKU-of-tomorrow"])
    print(one.to_pydict())

    new = {"item_id": ["SKU90001"], "title": ["Acme Shoes Trail, new"], "brand": ["Acme"], "categories": [LEAVES[0]]}
    rec.add_items(new)
    rec.save_pretrained(place / "tonight")

    users = data.user_ids.to_pylist()[:100]
    histories = [[rec.items.ids[int(i)].as_py() for i in data.sequences[row]] for row in range(100)]
    pq.write_table(pa.table({"user_id": users, "items": histories}), place / "users.parquet")
    done = recommend_to_folder(rec, place / "users.parquet", place / "recommendations", k=10)
    print(f"{done['recommendations']:,} recommendations: {place / 'recommendations'}")
    return {row.name: row.metrics["recall@10"] for row in report.rows}


if __name__ == "__main__":
    main(sys.argv[1])
