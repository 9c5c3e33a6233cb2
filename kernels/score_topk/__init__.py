"""`score_topk`: score every item by its vector and keep the best k of each user, exactly."""

import torch

from ..call import RecordOp
from ..checks import bind
from .reference import (
    PANEL,
    CodeTables,
    ItemVectors,
    ScoreTopk,
    allowed_words,
    panel_bytes,
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

    An item's score is the inner product of the user's state and its vector, both float32, summed up in float64
    (`exact_dot`), plus what the tables of `codes` say of its codes. Ties go to the lowest row. The answer is exact:
    the same rows and the same scores on every backend, for any number of threads and any split of the users.

    allowed: `allowed_words` of a mask of the items that may be returned, one (1, ...) for all users or one for each;
    None allows all. seen_BL: rows of the user's own items, -1 for none; they are left out, or with `seen_bias` gain
    that. A user with fewer than k items left is filled up with row -1 and score -inf, and so are items whose score is
    -inf or NaN. scores are float64, rows int64, without gradient. B, I and k may be 0. Rows and codes are not checked
    here, but where they are loaded. ValueError for a negative k and for a wrong dtype, device or shape.

    Paper: item-level score, ours, D11.
    """
    return OP(states_BD, items, k, allowed, seen_BL, seen_bias, codes)


def _check(
    states_BD: torch.Tensor,
    items: ItemVectors,
    k: int,
    allowed: torch.Tensor | None = None,
    seen_BL: torch.Tensor | None = None,
    seen_bias: float | None = None,
    codes: CodeTables | None = None,
) -> ScoreTopk:
    floats = {"states_BD": states_BD, "items.rows_ID": items.rows_ID, "items.scales_I": items.scales_I}
    floats |= {"items.errors_I": items.errors_I, "items.norms_I": items.norms_I}
    only_f32, only_i64, only_i32 = (torch.float32,), (torch.int64,), (torch.int32,)
    sizes = bind("score_topk", floats, {"seen_BL": seen_BL}, float_dtypes=only_f32, integer_dtypes=only_i64)
    device, panels = states_BD.device, {"items.panels_X": items.panels_X}
    wanted = {"X": panel_bytes(sizes["I"], sizes["D"])}
    bind("score_topk", {}, panels, integer_dtypes=(torch.uint8,), sizes=wanted, device=device)
    if allowed is not None:
        words, num_words = {"allowed_TX": allowed}, {"X": -(-sizes["I"] // PANEL)}
        shape = bind("score_topk", {}, words, integer_dtypes=only_i32, sizes=num_words, device=device)
        if shape["T"] not in (1, sizes["B"]):
            raise ValueError(f"score_topk: allowed has {shape['T']} rows where 1 or {sizes['B']} were expected")
    if codes is not None:
        tables = {"codes.tables_BTK": codes.tables_BTK}
        columns = {"codes.codes_IT": codes.codes_IT}
        bind("score_topk", tables, columns, float_dtypes=only_f32, integer_dtypes=only_i32, sizes=sizes, device=device)
    if k < 0 or not sizes["D"]:
        raise ValueError(f"score_topk: k from 0 and D from 1 up were expected, found {k} and {sizes['D']}")
    return ScoreTopk(states_BD, items, k, allowed, seen_BL, seen_bias, codes)


def _fake(call: ScoreTopk) -> tuple[torch.Tensor, torch.Tensor]:
    shape = len(call.states_BD), call.k
    return call.states_BD.new_empty(shape, dtype=torch.float64), call.states_BD.new_empty(shape, dtype=torch.int64)


OP = RecordOp(
    "score_topk",
    ScoreTopk,
    2,
    check=_check,
    reference=score_topk_reference,
    fake=_fake,
    implementations={"cpp": "native"},
)
