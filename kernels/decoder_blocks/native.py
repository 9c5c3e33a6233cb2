"""`decoder_blocks` in C++: paths are independent, so each thread takes some of them through all blocks at a time."""

import torch

__all__ = ["objection", "run"]


def objection(x_BPE: torch.Tensor, *_: object) -> str | None:
    return None if x_BPE.dtype == torch.float32 else f"it computes float32, this is {x_BPE.dtype}"


def run(
    x_BPE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_YN: torch.Tensor,
    ffn_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    num_users, num_paths, dim = x_BPE.shape
    _, both, num_heads, num_slots, head_dim = memory_BZHLD.shape
    x_BPE, rows_BPS, visible_BL, weights_YN = (x.contiguous() for x in (x_BPE, rows_BPS, visible_BL, weights_YN))
    kept, memory = (x if x.stride(-1) == 1 else x.contiguous() for x in (kept_BTRZHD, memory_BZHLD))
    y_BPE, made_BPZHD = torch.empty(x_BPE.shape), torch.empty(num_users, num_paths, both, num_heads, head_dim)
    _C.decoder_blocks_cpu(
        (num_users, num_paths, dim, num_heads, ffn_dim, both // 2, rows_BPS.shape[2], num_slots),
        x_BPE.data_ptr(),
        (kept.data_ptr(), *kept.stride()[:-1]),
        rows_BPS.data_ptr(),
        (memory.data_ptr(), *memory.stride()[:-1]),
        *(visible_BL.data_ptr(), weights_YN.data_ptr(), y_BPE.data_ptr(), made_BPZHD.data_ptr()),
        torch.get_num_threads(),
    )
    return y_BPE, made_BPZHD
