"""Users without a history, and items that nobody has touched yet.

python examples/cold_start.py runs/demo/recommender
"""

import sys

import pyarrow as pa

import reg4rec


def main(folder: str) -> None:
    rec = reg4rec.Recommender.from_pretrained(folder)

    print("a new user, without and with a first item")
    first = rec.items.ids[0].as_py()
    print(rec.recommend({"nothing yet": [], "one item": [first]}, k=3))

    print("a new item gets tokens from its text; the items that share most of them describe it best")
    known = rec.items.table.slice(0, 1)
    columns = {name: known[name] for name in known.column_names if name != "item_id"}
    new = pa.table({"item_id": ["new"], **columns})
    codes_BM = rec.tokenizer.encode_items(new)
    shared_I = (rec.tokenizer.codes_IM == codes_BM).sum(1)
    for row in shared_I.argsort(descending=True, stable=True)[:3].tolist():
        print(f"  {int(shared_I[row])} tokens shared: {rec.items.table['title'][row]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
