"""The definition of `path_attention` in PyTorch."""

from typing import NamedTuple

import torch

from ..bounds import bounded

__all__ = ["PathAttention", "attend_to_paths", "gather_paths", "path_attention_reference"]


class PathAttention(NamedTuple):
    """A call of `path_attention`."""

    q_BPAQ: torch.Tensor
    keys_BTRAQ: torch.Tensor
    values_BTRAQ: torch.Tensor
    rows_BPS: torch.Tensor


def path_attention_reference(call: PathAttention) -> torch.Tensor:
    """mixed_BPAQ"""
    return attend_to_paths(*call).to(call.q_BPAQ.dtype)


def attend_to_paths(
    q_BPAQ: torch.Tensor, keys_BTRAQ: torch.Tensor, values_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    """mixed_BPAQ, in float32 at least"""
    dtype = torch.float64 if q_BPAQ.dtype == torch.float64 else torch.float32
    keys_BPSAQ, values_BPSAQ = (bounded(gather_paths(x, rows_BPS).to(dtype)) for x in (keys_BTRAQ, values_BTRAQ))
    scaled_BPAQ = bounded(q_BPAQ.to(dtype)) * q_BPAQ.shape[-1] ** -0.5
    logits_BPAS = (keys_BPSAQ * scaled_BPAQ[:, :, None]).sum(-1).transpose(2, 3)
    return (logits_BPAS.softmax(-1).unsqueeze(3) @ values_BPSAQ.transpose(2, 3)).squeeze(3)


def gather_paths(kept_BTRAQ: torch.Tensor, rows_BPS: torch.Tensor) -> torch.Tensor:
    """kept_BPSAQ: a copy of the keys or values of each path's own steps (arguments as in `path_attention`)."""
    user_B11 = torch.arange(len(rows_BPS), device=rows_BPS.device)[:, None, None]
    step_S = torch.arange(rows_BPS.shape[2], device=rows_BPS.device)
    return kept_BTRAQ[user_B11, step_S, rows_BPS]
