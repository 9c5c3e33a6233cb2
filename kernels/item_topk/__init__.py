"""`item_topk`: score every item by its tokens and keep the best k of each user."""

import torch

from ..checks import bind, check_count, within, within_once
from ..dispatch import Op
from .reference import ItemTopk, empty_results, item_topk_reference

__all__ = ["item_topk"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def item_topk(
    log_probs_BMK: torch.Tensor, ids_IM: torch.Tensor, k: int, exclude_BX: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores_BN, items_BN) with N = k: each user's best items, best first.

    An item's score is the sum of its M tokens' log-probabilities, in float32 and in the order of the codebooks. Ties go
    to the lowest item. Items whose score is -inf or NaN and items in exclude_BX (padded with -1) are left out; a user
    with fewer than k items left is padded with item -1 and score -inf. items are int64, scores float32, without
    gradient. B, I, X and k may be 0. ValueError for a negative k and for a wrong dtype, device or shape, on the CPU
    also for ids outside 0..K-1 and rows in exclude_BX outside -1..I-1.

    Paper: item-level score, ours, D11
    """
    return OP(ItemTopk(log_probs_BMK, ids_IM, k, exclude_BX))


def _check(call: ItemTopk) -> None:
    integers = {"ids_IM": call.ids_IM, "exclude_BX": call.exclude_BX}
    bind("item_topk", {"log_probs_BMK": call.log_probs_BMK}, integers, float_dtypes=_DTYPES)
    check_count("item_topk", "k", call.k, 0)


def _values(call: ItemTopk) -> None:
    within_once("item_topk", "ids_IM", call.ids_IM, call.log_probs_BMK.shape[2] - 1)
    within("item_topk", "exclude_BX", call.exclude_BX, -1, len(call.ids_IM) - 1)


OP = Op(
    "item_topk",
    ItemTopk,
    2,
    check=_check,
    reference=item_topk_reference,
    fake=empty_results,
    values=_values,
    implementations={"cuda": "native_cuda", "cpp": "native"},
)
