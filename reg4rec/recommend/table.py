"""Search results as a table with the caller's ids."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError
from reg4rec.forks import check_polars
from reg4rec.search import Paths
from reg4rec.search.ranking import SOURCES, Ranking

__all__ = ["Frame", "Results", "SearchResults", "as_frame", "results_arrow", "similar_arrow"]

Frame = Literal["arrow", "polars"]

NAMES = pa.array(SOURCES)
STEP = pa.struct([("token", pa.string()), ("category", pa.string()), ("confidence", pa.float32())])


class Results(NamedTuple):
    """Results for one batch of users: the ranked items, and the paths to them if any were computed."""

    ranking: Ranking
    paths: Paths | None


class SearchResults(NamedTuple):
    """Results for one batch of users: the ranked items and the paths that found them."""

    ranking: Ranking
    paths: Paths


def as_frame(table: pa.Table, to: Frame) -> Any:
    """The table as Arrow or polars; polars is imported only if asked for."""
    if to not in get_args(Frame):
        raise InputError(f"to must be one of {get_args(Frame)}, found {to!r}")
    if to == "arrow":
        return table
    check_polars()
    import polars as pl

    return pl.from_arrow(table)


def results_arrow(
    users: pa.Array,
    items: ItemCatalog,
    results: Iterable[tuple[Ranking, Paths | None]],
    return_paths: bool = False,
    titles: bool = False,
) -> pa.Table:
    """A row for each item: user_id, rank (from 1), item_id, title (if asked), score, path (if asked), source.

    `users`: the ids of the users of all `results`.

    `path` has a step for each token, in the order of decoding: the token as `<t{codebook}_{code}>`, the category
    predicted after it (null if none was), and the probability with which it was chosen.
    """
    pieces, first = [], 0
    for ranking, paths in results:
        items_BN, source_BN = ranking.items_BN.cpu().numpy(), ranking.source_BN.cpu().numpy()
        user_T, place_T = at = np.nonzero(items_BN >= 0)
        columns = {
            "user_id": users.take(pa.array(user_T + first)),
            "rank": pa.array((place_T + 1).astype(np.int32)),
            "item_id": items.ids.take(pa.array(items_BN[at])),
        }
        if titles:
            columns["title"] = items.table["title"].take(pa.array(items_BN[at])).combine_chunks()
        columns["score"] = pa.array(ranking.scores_BN.cpu().numpy()[at].astype(np.float32))
        if return_paths:
            columns["path"] = _path_column(paths, user_T, ranking.path_BN.cpu().numpy()[at], items)
        columns["source"] = NAMES.take(pa.array(source_BN[at]))
        pieces.append(pa.table(columns))
        first += len(items_BN)
    if len(pieces) == 1:
        return pieces[0]
    kinds = {"user_id": users.type, "rank": pa.int32(), "item_id": items.ids.type}
    kinds |= ({"title": pa.string()} if titles else {}) | {"score": pa.float32()}
    kinds |= {"path": pa.list_(STEP)} if return_paths else {}
    return pa.concat_tables([pa.schema(kinds | {"source": pa.string()}).empty_table(), *pieces])


def similar_arrow(rows: npt.NDArray[np.int32], item_ids: pa.Array, row_BN: Tensor, score_BN: Tensor) -> pa.Table:
    """A row for each neighbor of the items in `rows`: item_id, rank (from 1), similar_item_id, score."""
    count = row_BN.shape[1]
    columns = {
        "item_id": item_ids.take(pa.array(np.repeat(rows, count))),
        "rank": pa.array(np.tile(np.arange(1, count + 1, dtype=np.int32), len(rows))),
        "similar_item_id": item_ids.take(_array(row_BN.flatten())),
        "score": _array(score_BN.flatten().float()),
    }
    return pa.table(columns)


def _array(values_T: Tensor) -> pa.Array:
    return pa.array(values_T.cpu().numpy())


def _path_column(
    paths: Paths | None, user_T: npt.NDArray[np.int64], path_T: npt.NDArray[np.int64], items: ItemCatalog
) -> pa.Array:
    """The steps of each path; empty if there is no path."""
    if paths is None:
        return pa.array([[]] * len(path_T), pa.list_(STEP))
    at = user_T, np.maximum(path_T, 0)
    order_TM, code_TM, category_TM, confidence_TM = (
        x.cpu().numpy()[at] for x in (paths.order_BWM, paths.tokens_BWM, paths.categories_BWM, paths.confidences_BWM)
    )
    taken_TM = (order_TM >= 0) & (path_T >= 0)[:, None]
    codebook, code = order_TM[taken_TM], np.take_along_axis(code_TM, np.maximum(order_TM, 0), 1)[taken_TM]
    category = category_TM[taken_TM]
    token = pc.binary_join_element_wise(
        "<t", pa.array(codebook).cast(pa.string()), "_", pa.array(code).cast(pa.string()), ">", ""
    )
    if category.max(initial=-1) >= len(items.category_names):
        raise InputError(
            f"the model predicts category {category.max()}, the catalog has {len(items.category_names)}; "
            "use the items and the category level of its training"
        )
    names = pa.array(items.category_names, pa.string()).take(pa.array(category, mask=category < 0))
    offsets = np.concatenate([[0], np.cumsum(taken_TM.sum(1))]).astype(np.int32)
    steps = pa.StructArray.from_arrays([token, names, pa.array(confidence_TM[taken_TM])], fields=list(STEP))
    return pa.ListArray.from_arrays(pa.array(offsets), steps)
