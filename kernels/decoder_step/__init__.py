"""`decoder_step`: the decoder for the new tokens of a search's paths, from embeddings to logits."""

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
    """(logits_BPO, categories_BPC): logits of all tokens and of the categories after one more token of each path.

    A path's input is the layer norm of scale x inputs_XD[row_BP] + position_D. Then each of the blocks: attention to
    the path's own S earlier steps and this one, attention to the visible slots of the user's history, FFN with ReLU,
    each followed by addition and layer norm (epsilon 1e-5). Where the shape refines, a layer's output for that is added
    to the user's row of states_BD. Two more layers give the logits; there are none (O = 0) without `with_logits`.

    kept_BTRZAQ holds what earlier steps made: step s of path p is row rows_BPS[b, p, s] of step s, as in
    `path_attention`, keys of block n at 2 n, values at 2 n + 1 (Z in all); **this step's are written to** row p of step
    S, so T > S and R >= P. S may be 0. Each user must see a slot; what is hidden or not named is not read. weights_Y:
    what `pack_weights` makes of all (`DecoderShape.part_shapes`), in the dtype of the inputs or in bfloat16: then the
    operands of the layers' products are rounded to that and nothing else is. D = A x Q.

    A path's result depends on its own row alone: any split of users or paths gives the same bits in C++. Without
    gradient. B and P may be 0. ValueError for a wrong dtype, device or shape, on the CPU also for rows that are not
    0..R-1, those of row_BP not 0..X-1, and users that see no slot. A path for which a number that is not finite, or of
    1e15 and more, comes up in attention, a norm, or its refined state, has NaN for results; weights of 1e6 and more
    are refused.

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
