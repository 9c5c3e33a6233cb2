"""`js_divergence` in CUDA: one warp per row."""

import torch

from .. import cuda
from .native import fields, objection
from .reference import JsDivergence, empty_results

__all__ = ["objection", "run"]

_BLOCK = 128
_ROWS = _BLOCK // 32


def run(call: JsDivergence) -> tuple[torch.Tensor, torch.Tensor]:
    results, logits_TC = empty_results(call), call.p_logits_TC
    entry = "bf16" if logits_TC.dtype == torch.bfloat16 else "f32"
    packed = cuda.packer("js_divergence")(**fields(call, results))
    grid = -(-len(logits_TC) // _ROWS)
    cuda.launch("js_divergence", entry, grid, _BLOCK, packed, logits_TC.device)
    return results
