"""`decoder_step` in C++: paths are independent, so each thread takes some of them through the decoder at a time."""

import torch

from ..panels import weights_objection

__all__ = ["objection", "run"]


def objection(inputs_XE: torch.Tensor, *rest: object) -> str | None:
    if inputs_XE.dtype != torch.float32:
        return f"it computes float32, this is {inputs_XE.dtype}"
    return weights_objection(rest[8])  # type: ignore[arg-type]


def run(
    inputs_XE: torch.Tensor,
    row_BP: torch.Tensor,
    scale: float,
    position_E: torch.Tensor,
    states_BE: torch.Tensor,
    kept_BTRZHD: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZHLD: torch.Tensor,
    visible_BL: torch.Tensor,
    weights_N: torch.Tensor,
    num_blocks: int,
    ffn_dim: int,
    num_tokens: int,
    num_categories: int,
    refines: bool,
    with_logits: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    (num_users, num_paths, num_steps), dim = rows_BPS.shape, inputs_XE.shape[1]
    num_heads, num_slots = memory_BZHLD.shape[2:4]
    inputs_XE, row_BP, position_E, states_BE = (x.contiguous() for x in (inputs_XE, row_BP, position_E, states_BE))
    rows_BPS, visible_BL, weights_N = (x.contiguous() for x in (rows_BPS, visible_BL, weights_N))
    kept, memory = (x if x.stride(-1) == 1 else x.contiguous() for x in (kept_BTRZHD, memory_BZHLD))
    logits_BPO = inputs_XE.new_empty(num_users, num_paths, num_tokens if with_logits else 0)
    categories_BPC = inputs_XE.new_empty(num_users, num_paths, num_categories)
    _C.decoder_step_cpu(
        (num_users, num_paths, dim, num_heads, ffn_dim, num_blocks, num_steps, num_slots, num_tokens, num_categories),
        *(refines, with_logits, inputs_XE.data_ptr(), row_BP.data_ptr(), scale),
        *(position_E.data_ptr(), states_BE.data_ptr(), (kept.data_ptr(), *kept.stride()[:-1]), rows_BPS.data_ptr()),
        *((memory.data_ptr(), *memory.stride()[:-1]), visible_BL.data_ptr(), weights_N.data_ptr()),
        *(weights_N.dtype == torch.bfloat16, logits_BPO.data_ptr(), categories_BPC.data_ptr()),
        torch.get_num_threads(),
    )
    if kept is not kept_BTRZHD:
        kept_BTRZHD[:, num_steps, :num_paths] = kept[:, num_steps, :num_paths]
    return logits_BPO, categories_BPC
