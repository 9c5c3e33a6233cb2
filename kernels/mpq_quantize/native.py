"""`mpq_quantize` in C++: a running best per row in float32 registers, near-ties decided in fp64."""

import torch

from .reference import Projection

__all__ = ["objection", "quantize", "run"]


def objection(latents_BME: torch.Tensor, *_: torch.Tensor | None) -> str | None:
    if latents_BME.dtype not in (torch.float32, torch.bfloat16):
        return f"it computes float32 and bfloat16 tensors, these are {latents_BME.dtype}"
    return None


def run(
    latents_BME: torch.Tensor, codebooks_MKE: torch.Tensor, gate_BM: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize(latents_BME, codebooks_MKE, gate_BM, None)


def quantize(
    latents_BME: torch.Tensor,
    codebooks_MKE: torch.Tensor,
    gate_BM: torch.Tensor | None,
    projection: Projection | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BM, mixed_BE); latents that come from a projection are compared with what it gives in fp64."""
    from ... import _C

    num_rows, num_books, width = latents_BME.shape
    ids_BM = torch.empty(num_rows, num_books, dtype=torch.int64, device="cpu")
    mixed_BE = codebooks_MKE.new_empty(num_rows, width)
    _C.mpq_quantize_cpu(
        *map(_view, (latents_BME, codebooks_MKE, gate_BM, *(projection or (None,) * 4))),
        *(num_rows, num_books, codebooks_MKE.shape[1], width, projection.hidden_BMH.shape[2] if projection else 0),
        *(ids_BM.data_ptr(), mixed_BE.data_ptr(), torch.get_num_threads()),
    )
    return ids_BM, mixed_BE


def _view(tensor: torch.Tensor | None) -> tuple[int, tuple[int, ...], bool] | None:
    return None if tensor is None else (tensor.data_ptr(), tensor.stride(), tensor.dtype == torch.bfloat16)
