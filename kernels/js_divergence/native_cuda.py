"""`js_divergence` in CUDA: one warp per row, on torch's current stream."""

import torch

from .native import call_arguments, objection

__all__ = ["objection", "run"]


def run(
    p_logits_NC: torch.Tensor, q_logits_NC: torch.Tensor, threshold: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    with torch.cuda.device(p_logits_NC.device):
        js_N, keep_N, arguments = call_arguments(p_logits_NC, q_logits_NC, threshold)
        _C.js_divergence_cuda(*arguments, torch.cuda.current_stream().cuda_stream)
    return js_N, keep_N
