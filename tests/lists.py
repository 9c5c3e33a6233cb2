"""What a table of recommendations must hold."""

from typing import Any

import polars as pl


def items_by_user(table: pl.DataFrame) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for row in table.iter_rows(named=True):
        found.setdefault(row["user_id"], []).append(row["item_id"])
        assert row["rank"] == len(found[row["user_id"]])
    return found


def share(flags: pl.Series) -> float:
    return float(flags.to_numpy().mean())


def check_lists(table: pl.DataFrame, histories: dict[Any, list[Any]], k: int, allowed: set[Any]) -> None:
    """Every user in order, with k distinct allowed items, ranks from 1, scores falling within a source."""
    found = items_by_user(table)
    assert list(found) == list(histories)
    for user, items in found.items():
        assert len(items) == len(set(items)) == min(k, len(allowed - set(histories[user])))
        assert set(items) <= allowed - set(histories[user])
    for _, rows in table.group_by("user_id", "source"):
        assert (rows.sort("rank")["score"].diff().drop_nulls() <= 1e-6).all()
