"""`js_divergence` in CUDA: one warp per row."""

import torch

from .. import cuda
from .native import objection

__all__ = ["objection", "run"]

_BLOCK = 128
_ROWS = _BLOCK // 32


def run(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, device = len(p_logits_NC), p_logits_NC.device
    js_N = torch.empty(num_rows, dtype=torch.float32, device=device)
    keep_N = torch.empty(0 if threshold is None else num_rows, dtype=torch.bool, device=device)
    arguments = (
        *(p_logits_NC, *p_logits_NC.stride(), q_logits_NC, *q_logits_NC.stride(), *p_logits_NC.shape),
        *(js_N, None if threshold is None else keep_N, 0.0 if threshold is None else threshold),
    )
    entry = "bf16" if p_logits_NC.dtype == torch.bfloat16 else "f32"
    cuda.launch("js_divergence", entry, -(-num_rows // _ROWS), _BLOCK, arguments, device)
    return js_N, keep_N
