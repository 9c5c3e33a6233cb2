"""Recommendations for users without a history, and of items without interactions.

python examples/cold_start.py runs/demo/recommender
"""

import sys

import pyarrow as pa

import reg4rec


def main(folder: str) -> None:
    rec = reg4rec.Recommender.from_pretrained(folder)

    print("a new user, without and with a first item")
    ids = rec.items.ids.to_pylist()
    first, new = ids[0], "new" if isinstance(ids[0], str) else max(ids) + 1
    print(rec.recommend({"nothing yet": [], "one item": [first]}, k=3, to="polars"))

    print("a new item gets tokens from its text and can be recommended at once")
    known = rec.items.table.slice(0, 1)
    columns = {name: known[name] for name in known.column_names if name != "item_id"}
    rec.add_items(pa.table({"item_id": [new], **columns}))
    print(rec.similar_items([new], k=3, to="polars"))
    print(rec.recommend({"one item": [first]}, k=3, candidates=[new, *ids[1:20]], to="polars"))


if __name__ == "__main__":
    main(*sys.argv[1:])
