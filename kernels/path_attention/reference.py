"""The definition of `path_attention` in PyTorch."""

import torch

__all__ = ["gather_paths", "path_attention_reference"]


def path_attention_reference(
    q_BPHD: torch.Tensor, keys_BTRHD: torch.Tensor, values_BTRHD: torch.Tensor, rows_BPS: torch.Tensor
) -> torch.Tensor:
    """mixed_BPHD"""
    dtype = torch.float64 if q_BPHD.dtype == torch.float64 else torch.float32
    keys_BPSHD, values_BPSHD = (gather_paths(x, rows_BPS).to(dtype) for x in (keys_BTRHD, values_BTRHD))
    scaled_BPHD = q_BPHD.to(dtype) * q_BPHD.shape[-1] ** -0.5
    weights_BPHS = (keys_BPSHD * scaled_BPHD[:, :, None]).sum(-1).transpose(2, 3).softmax(-1)
    return (weights_BPHS.unsqueeze(3) @ values_BPSHD.transpose(2, 3)).squeeze(3).to(q_BPHD.dtype)


def gather_paths(kept_BTRHD: torch.Tensor, rows_BPS: torch.Tensor) -> torch.Tensor:
    """kept_BPSHD: a copy of the keys or values of each path's own steps (arguments as in `path_attention`)."""
    user_B11 = torch.arange(len(rows_BPS), device=rows_BPS.device)[:, None, None]
    step_S = torch.arange(rows_BPS.shape[2], device=rows_BPS.device)
    return kept_BTRHD[user_B11, step_S, rows_BPS]
