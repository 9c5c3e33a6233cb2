"""`js_divergence`: how far two rows of category logits are apart, and which rows stay below a threshold."""

from typing import overload

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import JsDivergence, empty_results, js_divergence_reference

__all__ = ["js_divergence"]


@overload
def js_divergence(p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: None = None) -> torch.Tensor: ...


@overload
def js_divergence(
    p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]: ...


def js_divergence(
    p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: float | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Jensen-Shannon divergence in nats (0 to ln 2) of softmax(p_logits) and softmax(q_logits), row by row.

    Returns js_T, or with a threshold (js_T, keep_T) where keep_T is JS <= threshold; rows within 1e-5 of it are
    decided in fp64, so that every backend keeps the same rows. js_T is float32 (float64 for float64 logits),
    without gradient. A logit of -inf has probability 0; a row with a NaN or +inf, or with -inf only, gives NaN and is
    not kept. T may be 0, C may not. ValueError for a wrong dtype, device or shape.

    Paper: CORP, stated (divergence in nats: ours, D10)
    """
    js_T, keep_T = OP(JsDivergence(p_logits_TC, q_logits_TC, None if threshold is None else float(threshold)))
    return js_T if threshold is None else (js_T, keep_T)


def _check(call: JsDivergence) -> None:
    p_logits_TC, q_logits_TC, _ = call
    sizes = bind("js_divergence", {"p_logits_TC": p_logits_TC, "q_logits_TC": q_logits_TC})
    if sizes["C"] == 0:
        raise ValueError(f"js_divergence: at least one class is needed, found shape {tuple(p_logits_TC.shape)}")


OP = Op(
    "js_divergence",
    JsDivergence,
    2,
    check=_check,
    reference=js_divergence_reference,
    fake=empty_results,
    implementations={"cuda": "native_cuda", "triton": "triton_kernel", "cpp": "native"},
)
