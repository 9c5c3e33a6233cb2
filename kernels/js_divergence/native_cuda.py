"""`js_divergence` in CUDA: one warp per row."""

import torch

from .. import cuda
from .native import objection

__all__ = ["objection", "run"]

_BLOCK = 128
_ROWS = _BLOCK // 32


def run(
    p_logits_TC: torch.Tensor, q_logits_TC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, device = len(p_logits_TC), p_logits_TC.device
    js_T = torch.empty(num_rows, dtype=torch.float32, device=device)
    keep_T = torch.empty(0 if threshold is None else num_rows, dtype=torch.bool, device=device)
    arguments = (
        *(p_logits_TC, *p_logits_TC.stride(), q_logits_TC, *q_logits_TC.stride(), *p_logits_TC.shape),
        *(js_T, None if threshold is None else keep_T, 0.0 if threshold is None else threshold),
    )
    entry = "bf16" if p_logits_TC.dtype == torch.bfloat16 else "f32"
    cuda.launch("js_divergence", entry, -(-num_rows // _ROWS), _BLOCK, arguments, device)
    return js_T, keep_T
