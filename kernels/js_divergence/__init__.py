"""`js_divergence`: how far two rows of category logits are apart, and which rows stay below a threshold."""

from typing import overload

import torch

from ..checks import bind
from ..dispatch import Op
from .reference import js_divergence_reference

__all__ = ["js_divergence"]


@overload
def js_divergence(p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: None = None) -> torch.Tensor: ...


@overload
def js_divergence(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]: ...


def js_divergence(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Jensen-Shannon divergence in nats (0 to ln 2) of softmax(p_logits) and softmax(q_logits), row by row.

    Returns js_N, or with a threshold (js_N, keep_N) where keep_N is JS <= threshold; rows within 1e-5 of it are
    decided in fp64, so that every backend keeps the same rows. js_N is float32 (float64 for float64 logits),
    without gradient. A logit of -inf has probability 0; a row that holds NaN or +inf, or -inf only, gives NaN and is
    not kept. N may be 0, C may not. ValueError for a wrong dtype, device or shape.

    Paper: CORP, stated (divergence in nats: ours, D10)
    """
    js_N, keep_N = OP(p_logits_NC, q_logits_NC, threshold)
    return js_N if threshold is None else (js_N, keep_N)


def _check(p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None = None) -> tuple:
    sizes = bind("js_divergence", {"p_logits_NC": p_logits_NC, "q_logits_NC": q_logits_NC})
    if sizes["C"] == 0:
        raise ValueError(f"js_divergence: at least one class is needed, found shape {tuple(p_logits_NC.shape)}")
    return p_logits_NC, q_logits_NC, None if threshold is None else float(threshold)


def _fake(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if p_logits_NC.dtype == torch.float64 else torch.float32
    rows = p_logits_NC.shape[0]
    return (
        p_logits_NC.new_empty(rows, dtype=dtype),
        p_logits_NC.new_empty(0 if threshold is None else rows, dtype=torch.bool),
    )


OP = Op(
    "js_divergence",
    "(Tensor p_logits_NC, Tensor q_logits_NC, float? threshold) -> (Tensor, Tensor)",
    check=_check,
    reference=js_divergence_reference,
    fake=_fake,
    implementations={"cuda": "native_cuda", "triton": "triton_kernel", "cpp": "native"},
)
