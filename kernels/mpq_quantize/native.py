"""`mpq_quantize` in C++: a running best per row in float32 registers, near-ties decided in fp64."""

import torch

from ..call import native_op
from .reference import MpqQuantize, Projection, empty_results

__all__ = ["objection", "run"]


def objection(call: MpqQuantize) -> str | None:
    if call.latents_BME.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 tensors, these are {call.latents_BME.dtype}"
    return None


def run(call: MpqQuantize, projection: Projection | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE); with a projection, near-ties are decided by the latents that it gives in fp64."""
    num_rows, num_books, width = call.latents_BME.shape
    error_BM, hidden_BMH, weight_MEH, bias_ME = projection or (None,) * 4
    ids_BM, mixed_BE = empty_results(call)
    native_op("mpq_quantize")(
        latents=call.latents_BME,
        codebooks=call.codebooks_MKE,
        gate=call.gate_BM,
        error=error_BM,
        hidden=hidden_BMH,
        weight=weight_MEH,
        bias=bias_ME,
        num_rows=num_rows,
        num_books=num_books,
        num_codes=call.codebooks_MKE.shape[1],
        width=width,
        hidden_width=0 if hidden_BMH is None else hidden_BMH.shape[2],
        ids=ids_BM,
        mixed=mixed_BE,
    )
    return ids_BM, mixed_BE
