"""`decoder_step` in C++: each thread takes a few paths at a time through the whole decoder."""

import torch

from ..call import dense_rows, native_op
from ..panels import weights_objection
from .reference import DecoderStep, empty_results

__all__ = ["objection", "run"]


def objection(call: DecoderStep) -> str | None:
    if call.inputs_XD.dtype != torch.float32:
        return f"it computes float32, this is {call.inputs_XD.dtype}"
    return weights_objection(call.weights_Y)


def run(call: DecoderStep) -> tuple[torch.Tensor, torch.Tensor]:
    (num_users, num_paths, num_steps), (num_inputs, width) = call.rows_BPS.shape, call.inputs_XD.shape
    num_heads, memory_size = call.memory_BZAJQ.shape[2:4]
    shape, kept, (logits_BPO, categories_BPC) = call.shape, dense_rows(call.kept_BTRZAQ), empty_results(call)
    native_op("decoder_step")(
        num_users=num_users,
        num_paths=num_paths,
        width=width,
        num_heads=num_heads,
        ffn_width=shape.ffn_dim,
        num_blocks=shape.num_blocks,
        num_steps=num_steps,
        memory_size=memory_size,
        num_tokens=shape.num_tokens,
        num_categories=shape.num_categories,
        refines=shape.refines,
        writes_logits=call.with_logits,
        num_inputs=num_inputs,
        num_rows=kept.shape[2],
        inputs=call.inputs_XD.contiguous(),
        input_rows=call.row_BP.contiguous(),
        input_scale=call.scale,
        position=call.position_D.contiguous(),
        states=call.states_BD.contiguous(),
        kept=kept,
        rows=call.rows_BPS.contiguous(),
        memory=dense_rows(call.memory_BZAJQ),
        visible=call.visible_BJ.contiguous(),
        weights=call.weights_Y.contiguous(),
        is_bf16=call.weights_Y.dtype == torch.bfloat16,
        logits=logits_BPO,
        category_logits=categories_BPC,
    )
    if kept is not call.kept_BTRZAQ:  # C++ wrote into a copy
        call.kept_BTRZAQ[:, num_steps, :num_paths] = kept[:, num_steps, :num_paths]
    return logits_BPO, categories_BPC
