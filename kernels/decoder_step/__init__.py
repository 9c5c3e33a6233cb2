"""`decoder_step`: runs the decoder on the newest token of each path, from embeddings to logits."""

import torch

from ..bounds import check_weights
from ..checks import bind, within
from ..dispatch import Op
from ..panels import num_weights
from .reference import DecoderShape, DecoderStep, decoder_step_reference, empty_results

__all__ = ["DecoderShape", "decoder_step"]


def decoder_step(
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
    shape: DecoderShape,
    with_logits: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits_BPO, categories_BPC): each path's logits of all tokens and of the categories after its newest token.

    A path's input is the layer norm of scale x inputs_XD[row_BP] + position_D. Each block applies attention to the
    path's own S earlier steps and this one, attention to the visible slots of the user's history, and an FFN with ReLU,
    each followed by addition and layer norm (epsilon 1e-5). If the shape refines, one more layer maps the output, and
    the user's row of states_BD is added. Two last layers give the logits of tokens (O = 0 without `with_logits`) and of
    categories.

    kept_BTRZAQ is the cache of keys and values: those of path p at step s are in row rows_BPS[b, p, s] of step s, as
    in `path_attention`, keys of block n at 2 n, values at 2 n + 1 of Z. **This step's are written to** row p of step S,
    so T > S and R >= P. S may be 0. Each user must see a slot. Hidden slots, and rows that no path names, are not read.
    weights_Y: all weights by `pack_weights` in the order of `DecoderShape.part_shapes`, in the dtype of the inputs or
    in bfloat16, which rounds the operands of the layers' products to bfloat16 and nothing else. D = A x Q.

    A path's result depends on its own row alone, so in C++ any split of users or paths gives the same bits. Without
    gradient. B and P may be 0. A path's results are NaN if a number in its attention, its norms or its refined state is
    not finite or is 1e15 or more in magnitude. ValueError for a wrong dtype, device or shape, on the CPU also for rows
    outside 0..R-1 (row_BP: 0..X-1), users that see no slot, and weights of 1e6 or more.

    Paper: model, figure, D6: the decoder with its heads.
    """
    paths = inputs_XD, row_BP, float(scale), position_D, states_BD, kept_BTRZAQ, rows_BPS, memory_BZAJQ, visible_BJ
    return OP(DecoderStep(*paths, weights_Y, shape, with_logits))


def _check(call: DecoderStep) -> None:
    floats = {"inputs_XD": call.inputs_XD, "position_D": call.position_D, "states_BD": call.states_BD}
    floats |= {"kept_BTRZAQ": call.kept_BTRZAQ, "memory_BZAJQ": call.memory_BZAJQ}
    integers, bools = {"row_BP": call.row_BP, "rows_BPS": call.rows_BPS}, {"visible_BJ": call.visible_BJ}
    sizes = bind("decoder_step", floats, integers, bools, integer_dtypes=(torch.int64,))
    weights_Y, dtype, device = call.weights_Y, call.inputs_XD.dtype, call.inputs_XD.device
    bind("decoder_step", {"weights_Y": weights_Y}, float_dtypes=(dtype, torch.bfloat16), sizes=sizes, device=device)
    if sizes["S"] >= sizes["T"] or sizes["P"] > sizes["R"]:
        raise ValueError(
            f"decoder_step: kept_BTRZAQ has {sizes['T']} steps of {sizes['R']} rows, without room for "
            f"step {sizes['S']} (from 0) of {sizes['P']} paths"
        )
    dim, shape = sizes["D"], call.shape
    fits = sizes["Z"] == 2 * shape.num_blocks and min(shape[:3]) > 0 and shape.num_categories >= 0
    if not dim or dim != sizes["A"] * sizes["Q"] or not fits:
        raise ValueError(
            "decoder_step: D = A x Q > 0, Z = 2 x blocks, 1 or more blocks, FFN channels and tokens, and 0 or more "
            f"categories were expected, found {sizes} and {shape}"
        )
    if sizes["Y"] != (wanted := num_weights(shape, dim, weights_Y.dtype)):
        raise ValueError(f"decoder_step: weights_Y has {sizes['Y']} numbers where {wanted} were expected")
    check_weights("decoder_step", weights_Y)


def _values(call: DecoderStep) -> None:
    within("decoder_step", "row_BP", call.row_BP, 0, len(call.inputs_XD) - 1)
    within("decoder_step", "rows_BPS", call.rows_BPS, 0, call.kept_BTRZAQ.shape[2] - 1)
    if call.visible_BJ.is_cpu and not bool((sees_B := call.visible_BJ.any(1)).all()):
        blind = int((~sees_B).nonzero()[0])
        raise ValueError(f"decoder_step: visible_BJ must show each user a slot, user {blind} sees none")


OP = Op(
    "decoder_step",
    DecoderStep,
    2,
    check=_check,
    reference=decoder_step_reference,
    fake=empty_results,
    values=_values,
    implementations={"cpp": "native"},
    mutates=("kept_BTRZAQ",),
)
