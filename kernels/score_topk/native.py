"""`score_topk` in C++: a scan of the 8-bit copy, many users per pass, then exact scores of the items that may win."""

import torch

from ..call import dense, native_op
from ..checks import within_once
from .reference import ScoreTopk, empty_results

__all__ = ["objection", "run"]

MOST_WIDTH = 1 << 16
"""Sums of 8-bit products must fit into 32 bits."""


def objection(call: ScoreTopk) -> str | None:
    if call.states_BD.shape[1] > MOST_WIDTH:
        return f"it sums {MOST_WIDTH} channels at most, found {call.states_BD.shape[1]}"
    if not all(part.is_contiguous() for part in (*call.items[:5], *(call.codes or ())[:1])):
        return "it reads contiguous items, as ItemVectors.build makes them"
    return None


def run(call: ScoreTopk) -> tuple[torch.Tensor, torch.Tensor]:
    items, codes, states_BD = call.items, call.codes, call.states_BD.contiguous()
    batch, width = states_BD.shape
    if codes is not None:
        within_once("score_topk", "codes.codes_IT", codes.codes_IT, codes.tables_BTK.shape[2] - 1)
    tables_BTK = None if codes is None else codes.tables_BTK.contiguous()
    allowed, seen_BL, (scores_BN, rows_BN) = dense(call.allowed), dense(call.seen_BL), empty_results(call)
    native_op("score_topk")(
        num_users=batch,
        num_items=len(items.rows_ID),
        width=width,
        k=call.k,
        states=states_BD,
        rows=items.rows_ID,
        panels=items.panels_X,
        scales=items.scales_I,
        errors=items.errors_I,
        norms=items.norms_I,
        largest=items.largest,
        allowed=allowed,
        words_of_user=0 if allowed is None or len(allowed) == 1 else allowed.shape[1],
        seen=seen_BL,
        num_seen=0 if seen_BL is None else seen_BL.shape[1],
        scores_seen=call.seen_bias is not None,
        seen_bias=call.seen_bias or 0.0,
        codes=None if codes is None else codes.codes_IT,
        tables=tables_BTK,
        num_tables=0 if tables_BTK is None else tables_BTK.shape[1],
        table_size=0 if tables_BTK is None else tables_BTK.shape[2],
        best_scores=scores_BN,
        best_rows=rows_BN,
    )
    return scores_BN, rows_BN
