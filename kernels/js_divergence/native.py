"""`js_divergence` in C++: one pass per row in float32 vectors, rows spread over torch's number of threads."""

import torch

__all__ = ["objection", "run"]


def objection(p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: float | None) -> str | None:
    if p_logits_TC.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 logits, these are {p_logits_TC.dtype}"
    return None


def run(
    p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    js_T = torch.empty(len(p_logits_TC), dtype=torch.float32, device="cpu")
    keep_T = torch.empty(0 if threshold is None else len(p_logits_TC), dtype=torch.bool, device="cpu")
    _C.js_divergence_cpu(
        *(p_logits_TC.data_ptr(), *p_logits_TC.stride(), q_logits_TC.data_ptr(), *q_logits_TC.stride()),
        *(*p_logits_TC.shape, p_logits_TC.dtype == torch.bfloat16, js_T.data_ptr(), keep_T.data_ptr()),
        *(0.0 if threshold is None else threshold, torch.get_num_threads()),
    )
    return js_T, keep_T
