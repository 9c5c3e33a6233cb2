"""From your own two files to a saved recommender.

python examples/own_files.py clicks.csv items.csv runs/mine

clicks.csv needs the columns user_id, item_id and timestamp; items.csv needs item_id, and title, brand, categories
where you have them. Other names: see `reg4rec.read_interactions`.
"""

import sys
from pathlib import Path

import reg4rec
from reg4rec.tokenizer import suggested_codebook_size


def main(interactions: str, items: str, out: str, epochs: int = 10) -> None:
    run = Path(out)
    data = reg4rec.read_interactions(interactions, items)
    data.save(run / "data")

    codebook_size = suggested_codebook_size(data.num_items)
    tokenizer = reg4rec.fit_tokenizer(data, codebook_size=codebook_size, out=run / "tokens")
    print(tokenizer.describe())

    rec = reg4rec.fit_recommender(data, tokenizer, out=run / "pretrain", epochs=epochs)
    print(reg4rec.evaluate([reg4rec.Popularity.fit(data), rec], data).table())

    history = data.items.ids.take(data.sequences[0]).to_pylist()
    print(rec.recommend([history], k=5))
    print(f"load it with reg4rec.Recommender.from_pretrained({str(run / 'pretrain' / 'recommender')!r})")


if __name__ == "__main__":
    interactions_csv, items_csv, run_folder = sys.argv[1:]
    main(interactions_csv, items_csv, run_folder)
