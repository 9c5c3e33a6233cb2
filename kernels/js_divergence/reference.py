"""The definition of `js_divergence` in PyTorch."""

from typing import Any

import torch

__all__ = ["NEAR", "js_divergence_backward", "js_divergence_reference", "js_divergence_save"]

NEAR = 1e-5
"""Rows whose divergence is this close to the threshold are decided in fp64, the same way on every device."""


def js_divergence_reference(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(js_N, keep_N); keep_N is empty without a threshold."""
    js_N = _divergence(p_logits_NC, q_logits_NC, _work_dtype(p_logits_NC))
    if threshold is None:
        return js_N, js_N.new_empty(0, dtype=torch.bool)
    keep_N = js_N <= threshold
    if js_N.dtype == torch.float64:
        return js_N, keep_N
    near_X = ((js_N - threshold).abs() < NEAR).nonzero().squeeze(1)
    exact_X = _divergence(p_logits_NC[near_X], q_logits_NC[near_X], torch.float64)
    return js_N, keep_N.index_copy(0, near_X, exact_X <= threshold)


def js_divergence_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.mark_non_differentiable(output[1])


def js_divergence_backward(ctx: Any, grad_N: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    p_logits_NC, q_logits_NC = ctx.saved_tensors
    p_NC, q_NC, t_NC = _terms(p_logits_NC, q_logits_NC, _work_dtype(p_logits_NC))
    half_N1 = 0.5 * grad_N.to(t_NC.dtype).unsqueeze(1)
    grads: list[torch.Tensor | None] = []
    for needed, prob_NC, sign in zip(ctx.needs_input_grad, (p_NC, q_NC), (1, -1), strict=False):
        term_NC = prob_NC * _log1p(sign * t_NC)
        grad_NC = half_N1 * (term_NC - prob_NC * term_NC.sum(1, keepdim=True))
        grads.append(grad_NC.to(p_logits_NC.dtype) if needed else None)
    return grads[0], grads[1], None


def _work_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _terms(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p, q and t = (p - q) / (p + q), which is 0 where both probabilities are."""
    p_NC = p_logits_NC.to(dtype).softmax(1)
    q_NC = q_logits_NC.to(dtype).softmax(1)
    return p_NC, q_NC, (p_NC - q_NC) / (p_NC + q_NC).clamp_min(torch.finfo(dtype).tiny)


def _divergence(p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each term is 1/4 (p + q) [(1 + t) ln(1 + t) + (1 - t) ln(1 - t)]: never negative, exact for tiny divergences."""
    p_NC, q_NC, t_NC = _terms(p_logits_NC, q_logits_NC, dtype)
    entropy_NC = (1 + t_NC) * _log1p(t_NC) + (1 - t_NC) * _log1p(-t_NC)
    return 0.25 * ((p_NC + q_NC) * entropy_NC.clamp_min(0)).sum(1)


def _log1p(t_NC: torch.Tensor) -> torch.Tensor:
    """ln(1 + t), finite at t = -1, where what it multiplies is 0."""
    return t_NC.clamp_min(torch.finfo(t_NC.dtype).eps - 1).log1p()
