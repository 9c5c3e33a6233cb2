"""`path_topk`: the best items that reasoning paths lead to."""

from typing import Any

import torch

from ..checks import bind, check_count, within
from ..dispatch import Op
from ..token_index import TokenIndex, bind_index, check_index
from .reference import ItemScoring, path_topk_reference

__all__ = ["ItemScoring", "path_topk"]


def path_topk(
    tokens_BWM: torch.Tensor,
    scores_BW: torch.Tensor,
    index: TokenIndex,
    rank_I: torch.Tensor,
    k: int,
    exclude_BX: torch.Tensor | None = None,
    scoring: ItemScoring | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scores_BN, items_BN, path_BN), N = k: the best items, and the path that leads to each.

    A path leads to the indexed items that carry all of its tokens (tokens_BWM, -1 where it has none) and are not in
    exclude_BX (padded with -1); one of score -inf or NaN is dead, and one without tokens leads nowhere. An item belongs
    to the first path that leads to it. Its score is that path's, or with `scoring` (see `ItemScoring`) its own, summed
    in float64. Best items come first, equal scores by path, then by rank_I, then by row; missing ones have item
    and path -1 and score -inf. NaN is the worst score. Integers are int64, scores float32, without gradient; B and W
    may be 0. ValueError for a wrong dtype, device, shape or count, on the CPU also for tokens that are not -1..K-1,
    rows that are not -1..I-1, and an index whose parts do not belong together.

    Paper: path-to-item matching, ours, D3 and D11
    """
    return OP(tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring)


def _check(
    tokens_BWM: torch.Tensor,
    scores_BW: torch.Tensor,
    index: TokenIndex,
    rank_I: torch.Tensor,
    k: int,
    exclude_BX: torch.Tensor | None = None,
    scoring: ItemScoring | None = None,
) -> tuple:
    rows = {"tokens_BWM": tokens_BWM, "rank_I": rank_I, "exclude_BX": exclude_BX}
    sizes = bind("path_topk", {"scores_BW": scores_BW}, rows, integer_dtypes=(torch.int64,))
    bind_index("path_topk", index, sizes, tokens_BWM.device)
    if scoring is not None:
        logits_BMK, states_BD, residual_ID, repeated_BL, repeat_bias = scoring
        floats = {"scoring.logits_BMK": logits_BMK, "scoring.states_BD": states_BD}
        floats |= {"scoring.residual_ID": residual_ID, "scoring.repeat_bias_": repeat_bias}
        repeated = {"scoring.repeated_BL": repeated_BL}
        bind("path_topk", floats, repeated, integer_dtypes=(torch.int64,), sizes=sizes, device=tokens_BWM.device)
    check_count("path_topk", "k", k, 1)
    return tokens_BWM, scores_BW, *index, rank_I, k, exclude_BX, *(scoring or (None,) * 5)


def _reference(
    tokens_BWM: torch.Tensor,
    scores_BW: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index, (rank_I, k, exclude_BX), scoring = TokenIndex(*rest[:6]), rest[6:9], rest[9:]
    own = None if scoring[0] is None else ItemScoring(*scoring)
    return path_topk_reference(tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, own)


def _values(tokens_BWM: torch.Tensor, scores_BW: torch.Tensor, *rest: Any) -> None:
    index, exclude_BX, repeated_BL = TokenIndex(*rest[:6]), rest[8], rest[12]
    check_index("path_topk", index)
    within("path_topk", "tokens_BWM", tokens_BWM, -1, index.counts_MK.shape[1] - 1)
    within("path_topk", "exclude_BX", exclude_BX, -1, len(index.codes_IM) - 1)
    within("path_topk", "scoring.repeated_BL", repeated_BL, -1, len(index.codes_IM) - 1)


def _fake(
    tokens_BWM: torch.Tensor, scores_BW: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = len(tokens_BWM), rest[7]
    return (
        scores_BW.new_empty(shape, dtype=torch.float32),
        tokens_BWM.new_empty(shape),
        tokens_BWM.new_empty(shape),
    )


OP = Op(
    "path_topk",
    "(Tensor tokens_BWM, Tensor scores_BW, Tensor codes_IM, Tensor offsets, Tensor postings, Tensor counts_MK,"
    " Tensor pair_offsets, Tensor pair_postings, Tensor rank_I, SymInt k, Tensor? exclude_BX, Tensor? logits_BMK,"
    " Tensor? states_BD, Tensor? residual_ID, Tensor? repeated_BL, Tensor? repeat_bias)"
    " -> (Tensor, Tensor, Tensor)",
    check=_check,
    reference=_reference,
    fake=_fake,
    values=_values,
    implementations={"cpp": "native"},
)
