"""`decoder_step` in C++: paths are independent, so each thread takes some of them through the decoder at a time."""

import torch

from ..panels import weights_objection

__all__ = ["objection", "run"]


def objection(inputs_XD: torch.Tensor, *rest: object) -> str | None:
    if inputs_XD.dtype != torch.float32:
        return f"it computes float32, this is {inputs_XD.dtype}"
    return weights_objection(rest[8])  # type: ignore[arg-type]


def run(
    inputs_XD: torch.Tensor,
    row_BP: torch.Tensor,
    scale: float,
    position_D: torch.Tensor,
    states_BD: torch.Tensor,
    kept_BTRZAQ: torch.Tensor,
    rows_BPS: torch.Tensor,
    memory_BZAJQ: torch.Tensor,
    visible_BJ: torch.Tensor,
    weights_Y: torch.Tensor,
    num_blocks: int,
    ffn_dim: int,
    num_tokens: int,
    num_categories: int,
    refines: bool,
    with_logits: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from ... import _C

    (num_users, num_paths, num_steps), dim = rows_BPS.shape, inputs_XD.shape[1]
    num_heads, num_slots = memory_BZAJQ.shape[2:4]
    inputs_XD, row_BP, position_D, states_BD = (x.contiguous() for x in (inputs_XD, row_BP, position_D, states_BD))
    rows_BPS, visible_BJ, weights_Y = (x.contiguous() for x in (rows_BPS, visible_BJ, weights_Y))
    kept, memory = (x if x.stride(-1) == 1 else x.contiguous() for x in (kept_BTRZAQ, memory_BZAJQ))
    logits_BPO = inputs_XD.new_empty(num_users, num_paths, num_tokens if with_logits else 0)
    categories_BPC = inputs_XD.new_empty(num_users, num_paths, num_categories)
    _C.decoder_step_cpu(
        (
            *(num_users, num_paths, dim, num_heads, ffn_dim, num_blocks, num_steps, num_slots, num_tokens),
            *(num_categories, len(inputs_XD), kept.shape[2]),
        ),
        *(refines, with_logits, inputs_XD.data_ptr(), row_BP.data_ptr(), scale),
        *(position_D.data_ptr(), states_BD.data_ptr(), (kept.data_ptr(), *kept.stride()[:-1]), rows_BPS.data_ptr()),
        *((memory.data_ptr(), *memory.stride()[:-1]), visible_BJ.data_ptr(), weights_Y.data_ptr()),
        *(weights_Y.dtype == torch.bfloat16, logits_BPO.data_ptr(), categories_BPC.data_ptr()),
        torch.get_num_threads(),
    )
    if kept is not kept_BTRZAQ:
        kept_BTRZAQ[:, num_steps, :num_paths] = kept[:, num_steps, :num_paths]
    return logits_BPO, categories_BPC
