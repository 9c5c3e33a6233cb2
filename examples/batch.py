"""Recommendations for a file of users, in bounded memory; if killed, start it again and it continues.

python examples/batch.py runs/demo/recommender users.parquet recommendations

users.parquet needs a column items (lists of item ids, oldest first); a column user_id is optional.
"""

import sys

import polars as pl

import reg4rec
from reg4rec.batch.job import recommend_to_folder


def main(folder: str, users: str, out: str, k: int = 10) -> None:
    rec = reg4rec.Recommender.from_pretrained(folder)
    summary = recommend_to_folder(rec, users, out, k)
    print(f"{summary['users']} users, {summary['users_per_second']:.0f} a second")
    print(pl.read_parquet(f"{out}/part-*.parquet").head())


if __name__ == "__main__":
    recommender_folder, users_file, output_folder = sys.argv[1:]
    main(recommender_folder, users_file, output_folder)
