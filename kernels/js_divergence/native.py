"""`js_divergence` in C++: one pass per row in float32 vectors, rows spread over torch's number of threads."""

import torch

__all__ = ["objection", "run"]


def objection(p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None) -> str | None:
    if p_logits_NC.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 logits, these are {p_logits_NC.dtype}"
    return None


def run(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    js_N = torch.empty(len(p_logits_NC), dtype=torch.float32, device="cpu")
    keep_N = torch.empty(0 if threshold is None else len(p_logits_NC), dtype=torch.bool, device="cpu")
    _C.js_divergence_cpu(
        *(p_logits_NC.data_ptr(), *p_logits_NC.stride(), q_logits_NC.data_ptr(), *q_logits_NC.stride()),
        *(*p_logits_NC.shape, p_logits_NC.dtype == torch.bfloat16, js_N.data_ptr(), keep_N.data_ptr()),
        *(0.0 if threshold is None else threshold, torch.get_num_threads()),
    )
    return js_N, keep_N
