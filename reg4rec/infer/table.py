"""What a search found, as a table with the caller's ids."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from torch import Tensor

from reg4rec.infer.ranking import SOURCES, Ranking
from reg4rec.infer.search import Paths

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Results", "results_table", "similar_table"]


class Results(NamedTuple):
    """One batch of users: the ranked items and the paths they came from."""

    ranking: Ranking
    paths: Paths


def results_table(
    users: list[Any], item_ids: pa.Array, results: Sequence[tuple[Ranking, Paths | None]]
) -> "pl.DataFrame":
    """user_id, rank (from 1), item_id, score, path (tokens in the order of emission), source; a row an item."""
    import polars as pl

    columns: dict[str, list[Any]] = {name: [] for name in ("user_id", "rank", "score", "path", "source")}
    found: list[int] = []
    first = 0
    for ranking, paths in results:
        user_T, place_T = (ranking.items_BN >= 0).nonzero(as_tuple=True)
        found += ranking.items_BN[user_T, place_T].tolist()
        columns["user_id"] += [users[first + b] for b in user_T.tolist()]
        columns["rank"] += (place_T + 1).tolist()
        columns["score"] += ranking.scores_BN[user_T, place_T].tolist()
        columns["path"] += _path_names(paths, user_T, ranking.path_BN[user_T, place_T])
        columns["source"] += [SOURCES[s] for s in ranking.source_BN[user_T, place_T].tolist()]
        first += len(ranking.items_BN)
    known: dict[str, Any] = {"rank": pl.Int32, "score": pl.Float32, "path": pl.List(pl.String), "source": pl.String}
    table = pl.DataFrame(columns, schema_overrides=known)
    return table.insert_column(2, _ids(item_ids, found, "item_id"))


def similar_table(wanted: list[Any], item_ids: pa.Array, row_BN: Tensor, score_BN: Tensor) -> "pl.DataFrame":
    """item_id, rank (from 1), similar_item_id, score; a row a neighbor."""
    import polars as pl

    count = row_BN.shape[1]
    columns = {
        "item_id": [item for item in wanted for _ in range(count)],
        "rank": list(range(1, count + 1)) * len(wanted),
        "similar_item_id": _ids(item_ids, row_BN.flatten().tolist(), "similar_item_id"),
        "score": score_BN.flatten().tolist(),
    }
    return pl.DataFrame(columns, schema_overrides={"rank": pl.Int32, "score": pl.Float32})


def _ids(item_ids: pa.Array, rows: list[int], name: str) -> "pl.Series":
    """The caller's ids of item rows, in the caller's type even where there are none."""
    import polars as pl

    return pl.Series(name, pl.from_arrow(item_ids.take(pa.array(rows, pa.int64()))))


def _path_names(paths: Paths | None, user_T: Tensor, path_T: Tensor) -> list[list[str]]:
    """The tokens of each path in the order of emission, as `<t{codebook}_{code}>`; none without a path."""
    if paths is None:
        return [[] for _ in path_T]
    order_TM = paths.order_BWM[user_T, path_T.clamp(min=0)]
    code_TM = paths.tokens_BWM[user_T, path_T.clamp(min=0)].gather(1, order_TM.clamp(min=0))
    rows = zip(path_T.tolist(), order_TM.tolist(), code_TM.tolist(), strict=True)
    return [
        [] if path < 0 else [f"<t{r}_{j}>" for r, j in zip(order, codes, strict=True) if r >= 0]
        for path, order, codes in rows
    ]
