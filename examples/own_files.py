"""From your own two files to a saved recommender.

python examples/own_files.py clicks.csv items.csv runs/mine

clicks.csv needs the columns user_id, item_id and timestamp; items.csv needs item_id, and title, brand, categories
if you have them. Other names: see `reg4rec.read_interactions`.
"""

import sys

import reg4rec


def main(interactions: str, items: str, out: str, epochs: int | None = None) -> None:
    data = reg4rec.read_interactions(interactions, items)
    recipe = reg4rec.RECIPES["default"].sized_for(data.num_items)
    if epochs is not None:
        recipe = recipe.change(pretrain={"epochs": epochs})
    rec = reg4rec.fit(data, out=out, recipe=recipe)  # if killed, start it again: it continues

    history = data.items.ids.take(data.sequences[0]).to_pylist()
    print(rec.recommend([history], k=5, to="polars"))
    print(f"load it with reg4rec.Recommender.from_pretrained({out + '/recommender'!r})")


if __name__ == "__main__":
    interactions_csv, items_csv, run_folder = sys.argv[1:]
    main(interactions_csv, items_csv, run_folder)
