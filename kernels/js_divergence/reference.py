"""The definition of `js_divergence` in PyTorch."""

import torch

__all__ = ["NEAR", "js_divergence_reference"]

NEAR = 1e-5
"""Rows whose divergence is this close to the threshold are decided in fp64, the same way on every device."""


def js_divergence_reference(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(js_N, keep_N); keep_N is empty without a threshold."""
    work_dtype = torch.float64 if p_logits_NC.dtype == torch.float64 else torch.float32
    js_N = _divergence(p_logits_NC, q_logits_NC, work_dtype)
    if threshold is None:
        return js_N, js_N.new_empty(0, dtype=torch.bool)
    keep_N = js_N <= threshold
    if js_N.dtype == torch.float64:
        return js_N, keep_N
    near_X = ((js_N - threshold).abs() < NEAR).nonzero().squeeze(1)
    exact_X = _divergence(p_logits_NC[near_X], q_logits_NC[near_X], torch.float64)
    return js_N, keep_N.index_copy(0, near_X, exact_X <= threshold)


def _divergence(p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each term is 1/4 (p + q) [(1 + t) ln(1 + t) + (1 - t) ln(1 - t)]: never negative, exact for tiny divergences."""
    p_NC, q_NC = p_logits_NC.to(dtype).softmax(1), q_logits_NC.to(dtype).softmax(1)
    t_NC = (p_NC - q_NC) / (p_NC + q_NC).clamp_min(torch.finfo(dtype).tiny)  # 0 where both probabilities are
    entropy_NC = (1 + t_NC) * _log1p(t_NC) + (1 - t_NC) * _log1p(-t_NC)
    return 0.25 * ((p_NC + q_NC) * entropy_NC.clamp_min(0)).sum(1)


def _log1p(t_NC: torch.Tensor) -> torch.Tensor:
    """ln(1 + t), finite at t = -1, where what it multiplies is 0."""
    return t_NC.clamp_min(torch.finfo(t_NC.dtype).eps - 1).log1p()
