"""`js_divergence` in C++: one pass per row in float32 vectors, rows spread over torch's number of threads."""

from typing import Any

import torch

from ..call import native_op
from .reference import JsDivergence, empty_results

__all__ = ["fields", "objection", "run"]


def objection(call: JsDivergence) -> str | None:
    if call.p_logits_TC.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 logits, these are {call.p_logits_TC.dtype}"
    return None


def run(call: JsDivergence) -> tuple[torch.Tensor, torch.Tensor]:
    results = empty_results(call)
    native_op("js_divergence")(**fields(call, results))
    return results


def fields(call: JsDivergence, results: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """The fields of the struct that C++ and CUDA take."""
    (num_rows, num_classes), (js_T, keep_T) = call.p_logits_TC.shape, results
    return {
        "p_logits": call.p_logits_TC,
        "q_logits": call.q_logits_TC,
        "num_rows": num_rows,
        "num_classes": num_classes,
        "js": js_T,
        "keep": None if call.threshold is None else keep_T,
        "threshold": call.threshold or 0.0,
    }
