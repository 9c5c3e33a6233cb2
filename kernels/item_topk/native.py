"""`item_topk` in C++: one pass over the codes for many users, spread over torch's number of threads."""

from typing import Any

import torch

from ..call import native_op
from ..checks import within_once
from .reference import ItemTopk, empty_results

__all__ = ["fields", "objection", "run"]


def objection(call: ItemTopk) -> str | None:
    num_codes, stride = call.log_probs_BMK.shape[2], call.log_probs_BMK.stride(2)
    if num_codes * stride > 2**31:
        return f"it indexes codes with 32 bits, {num_codes} codes have stride {stride}"
    return None


def run(call: ItemTopk) -> tuple[torch.Tensor, torch.Tensor]:
    within_once("item_topk", "ids_IM", call.ids_IM, call.log_probs_BMK.shape[2] - 1)
    log_probs_BMK, results = call.log_probs_BMK.float(), empty_results(call)
    native_op("item_topk")(**fields(call, log_probs_BMK, results), num_ranges=0, range_size=0, capacity=0, keys=None)
    return results


def fields(call: ItemTopk, log_probs_BMK: torch.Tensor, results: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """The fields of the struct that C++ and CUDA take; log_probs_BMK: float32."""
    (num_users, num_books, num_codes), (scores_BN, items_BN) = log_probs_BMK.shape, results
    return {
        "log_probs": log_probs_BMK,
        "ids": call.ids_IM,
        "exclude": call.exclude_BX,
        "num_users": num_users,
        "num_books": num_books,
        "num_codes": num_codes,
        "num_items": call.ids_IM.shape[0],
        "num_excluded": 0 if call.exclude_BX is None else call.exclude_BX.shape[1],
        "k": call.k,
        "scores": scores_BN,
        "items": items_BN,
    }
