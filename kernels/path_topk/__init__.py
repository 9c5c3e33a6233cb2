"""`path_topk`: the best items that the paths of a search lead to."""

import torch

from ..checks import bind, check_count, within
from ..dispatch import Op
from ..token_index import TokenIndex, bind_index, check_index
from .reference import ItemScoring, PathTopk, empty_results, path_topk_reference

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
    exclude_BX (padded with -1). A path with score -inf or NaN is dead, and one without tokens leads nowhere. An item
    belongs to the first path that leads to it. Its score is the path's, or with `scoring` the item's own (see
    `ItemScoring`), summed in float64. Items come best first; ties go to the lowest path, then the lowest rank_I, then
    the lowest row; missing items have item and path -1 and score -inf. NaN is the worst score. Integers are int64,
    scores float32, without gradient; B and W may be 0. ValueError for a wrong dtype, device, shape or count, on the CPU
    also for tokens outside -1..K-1, rows outside -1..I-1, and an index whose parts do not match.

    Paper: path-to-item matching, ours, D3 and D11
    """
    return OP(PathTopk(tokens_BWM, scores_BW, index, rank_I, k, exclude_BX, scoring))


def _check(call: PathTopk) -> None:
    rows = {"tokens_BWM": call.tokens_BWM, "rank_I": call.rank_I, "exclude_BX": call.exclude_BX}
    sizes = bind("path_topk", {"scores_BW": call.scores_BW}, rows, integer_dtypes=(torch.int64,))
    device, scoring = call.tokens_BWM.device, call.scoring
    bind_index("path_topk", call.token_index, sizes, device)
    if scoring is not None:
        floats = {"scoring.logits_BMK": scoring.logits_BMK, "scoring.states_BD": scoring.states_BD}
        floats |= {"scoring.residual_ID": scoring.residual_ID, "scoring.repeat_bias_": scoring.repeat_bias}
        repeated = {"scoring.repeated_BL": scoring.repeated_BL}
        bind("path_topk", floats, repeated, integer_dtypes=(torch.int64,), sizes=sizes, device=device)
    check_count("path_topk", "k", call.k, 1)


def _values(call: PathTopk) -> None:
    check_index("path_topk", call.token_index)
    within("path_topk", "tokens_BWM", call.tokens_BWM, -1, call.token_index.counts_MK.shape[1] - 1)
    within("path_topk", "exclude_BX", call.exclude_BX, -1, len(call.token_index.codes_IM) - 1)
    if call.scoring is not None:
        within("path_topk", "scoring.repeated_BL", call.scoring.repeated_BL, -1, len(call.token_index.codes_IM) - 1)


OP = Op(
    "path_topk",
    PathTopk,
    3,
    check=_check,
    reference=path_topk_reference,
    fake=empty_results,
    values=_values,
    implementations={"cpp": "native"},
)
