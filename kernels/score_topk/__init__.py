"""`score_topk`: score every item by its vector and keep the best k of each user, exactly."""

import torch

from ..checks import bind, check_count, within, within_once
from ..dispatch import Op
from .reference import (
    PANEL,
    CodeTables,
    ItemVectors,
    ScoreTopk,
    allowed_words,
    bind_vectors,
    check_vectors,
    empty_results,
    score_topk_reference,
)

__all__ = ["CodeTables", "ItemVectors", "allowed_words", "score_topk"]


def score_topk(
    states_BD: torch.Tensor,
    items: ItemVectors,
    k: int,
    allowed: torch.Tensor | None = None,
    seen_BL: torch.Tensor | None = None,
    seen_bias: float | None = None,
    codes: CodeTables | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores_BN, rows_BN) with N = k: each user's best items, best first.

    An item's score is the inner product of the user's state and its vector, both float32, summed in float64
    (`exact_dot`), plus the entries for its codes in the user's tables (`codes`). Ties go to the lowest row. The answer
    is exact: the same rows and scores on every backend, for any number of threads and any split of the users.

    allowed: `allowed_words` of a mask of the items that may be returned, one row for all users or one for each; None
    allows all. seen_BL: rows of the items in the user's history, -1 for none; they are left out, or with `seen_bias`
    it is added to their scores. Items with score -inf or NaN are left out; a user with fewer than k items left is
    padded with row -1 and score -inf. scores are float64, rows int64, without gradient. B, I and k may be 0. ValueError
    for a negative k and for a wrong dtype, device or shape, on the CPU also for rows outside -1..I-1, codes outside
    0..K-1, and items whose parts do not match.

    Paper: item-level score, ours, D11.
    """
    return OP(ScoreTopk(states_BD, items, k, allowed, seen_BL, seen_bias, codes))


def _check(call: ScoreTopk) -> None:
    states_BD, items, k, allowed, seen_BL, _, codes = call
    states, seen = {"states_BD": states_BD}, {"seen_BL": seen_BL}
    only_f32, only_i64, only_i32 = (torch.float32,), (torch.int64,), (torch.int32,)
    sizes = bind("score_topk", states, seen, float_dtypes=only_f32, integer_dtypes=only_i64)
    device = states_BD.device
    bind_vectors("score_topk", items, sizes, device)
    if allowed is not None:
        words, num_words = {"allowed_TX": allowed}, {"X": -(-sizes["I"] // PANEL)}
        shape = bind("score_topk", {}, words, integer_dtypes=only_i32, sizes=num_words, device=device)
        if shape["T"] not in (1, sizes["B"]):
            raise ValueError(f"score_topk: allowed has {shape['T']} rows where 1 or {sizes['B']} were expected")
    if codes is not None:
        tables = {"codes.tables_BTK": codes.tables_BTK}
        columns = {"codes.codes_IT": codes.codes_IT}
        bind("score_topk", tables, columns, float_dtypes=only_f32, integer_dtypes=only_i32, sizes=sizes, device=device)
    check_count("score_topk", "k", k, 0)
    check_count("score_topk", "D", sizes["D"], 1)


def _values(call: ScoreTopk) -> None:
    check_vectors("score_topk", call.items)
    if call.codes is not None:
        within_once("score_topk", "codes.codes_IT", call.codes.codes_IT, call.codes.tables_BTK.shape[2] - 1)
    within("score_topk", "seen_BL", call.seen_BL, -1, len(call.items.rows_ID) - 1)


OP = Op(
    "score_topk",
    ScoreTopk,
    2,
    check=_check,
    reference=score_topk_reference,
    fake=empty_results,
    values=_values,
    implementations={"cpp": "native"},
)
