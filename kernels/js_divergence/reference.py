"""The definition of `js_divergence` in PyTorch."""

from typing import NamedTuple

import torch

__all__ = ["NEAR", "JsDivergence", "empty_results", "js_divergence_reference"]

NEAR = 1e-5
"""Rows whose divergence is this close to the threshold are decided in fp64, the same way on every device."""


class JsDivergence(NamedTuple):
    """A call of `js_divergence`."""

    p_logits_TC: torch.Tensor
    q_logits_TC: torch.Tensor
    threshold: float | None = None


def empty_results(call: JsDivergence) -> tuple[torch.Tensor, torch.Tensor]:
    """(js_T, keep_T), not yet written to; keep_T is empty without a threshold."""
    logits_TC, num_rows = call.p_logits_TC, call.p_logits_TC.shape[0]
    js_T = logits_TC.new_empty(num_rows, dtype=torch.float64 if logits_TC.dtype == torch.float64 else torch.float32)
    return js_T, logits_TC.new_empty(0 if call.threshold is None else num_rows, dtype=torch.bool)


def js_divergence_reference(call: JsDivergence) -> tuple[torch.Tensor, torch.Tensor]:
    p_logits_TC, q_logits_TC, threshold = call
    work_dtype = torch.float64 if p_logits_TC.dtype == torch.float64 else torch.float32
    js_T = _divergence(p_logits_TC, q_logits_TC, work_dtype)
    if threshold is None:
        return js_T, js_T.new_empty(0, dtype=torch.bool)
    keep_T = js_T <= threshold
    if js_T.dtype == torch.float64:
        return js_T, keep_T
    near_X = ((js_T - threshold).abs() < NEAR).nonzero().squeeze(1)
    exact_X = _divergence(p_logits_TC[near_X], q_logits_TC[near_X], torch.float64)
    return js_T, keep_T.index_copy(0, near_X, exact_X <= threshold)


def _divergence(p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Sums 1/4 (p + q) [(1 + t) ln(1 + t) + (1 - t) ln(1 - t)]: never negative, accurate for tiny divergences."""
    p_TC, q_TC = p_logits_TC.to(dtype).softmax(1), q_logits_TC.to(dtype).softmax(1)
    t_TC = (p_TC - q_TC) / (p_TC + q_TC).clamp_min(torch.finfo(dtype).tiny)  # 0 if p = q = 0
    entropy_TC = (1 + t_TC) * _log1p(t_TC) + (1 - t_TC) * _log1p(-t_TC)
    return 0.25 * ((p_TC + q_TC) * entropy_TC.clamp_min(0)).sum(1)


def _log1p(t_TC: torch.Tensor) -> torch.Tensor:
    """ln(1 + t), but finite at t = -1, where it is multiplied by 0."""
    return t_TC.clamp_min(torch.finfo(t_TC.dtype).eps - 1).log1p()
