"""The order in which a target's tokens are fed to the decoder in training (D4)."""

from typing import Literal

import torch
from torch import Tensor

from reg4rec import distributed, ops
from reg4rec.model import Reg4RecModel

__all__ = ["OrderPolicy", "draw_order"]

OrderPolicy = Literal["random", "crss", "fixed"]


def draw_order(
    policy: OrderPolicy,
    model: Reg4RecModel,
    memory_BJD: Tensor,
    number_J: Tensor,
    codes_BTM: Tensor,
    column_T: Tensor,
    index: ops.TokenIndex | None = None,
    num_rows: int | None = None,
) -> Tensor:
    """order_BTM: for every target the codebooks in the order in which to feed them (arguments as in `decode_on`).

    random: uniform permutations. fixed: 0..M-1. crss: the model's own order, as in the search: at each step, the unused
    codebook with the most probable token (with an `index`, probabilities are normalized over the tokens with which the
    path can still become an item); the target's token of that codebook is fed. The order has no gradient. `num_rows`: B
    of the whole batch if the rows are this process's share of it.
    Paper: pre-training, ours, D4 and D5.
    """
    if policy == "random":
        rows = len(codes_BTM) if num_rows is None else num_rows
        return distributed.uniform(rows, codes_BTM.shape[1:], codes_BTM.device).argsort(-1)
    if policy == "fixed":
        return torch.arange(codes_BTM.shape[-1], device=codes_BTM.device).expand_as(codes_BTM)
    return _confident_order(model, memory_BJD, number_J, codes_BTM, column_T, index)


@torch.no_grad()
def _confident_order(
    model: Reg4RecModel,
    memory_BJD: Tensor,
    number_J: Tensor,
    codes_BTM: Tensor,
    column_T: Tensor,
    index: ops.TokenIndex | None,
) -> Tensor:
    was_training = model.training
    model.eval()
    order = codes_BTM[..., :0]
    used_BTM = torch.zeros_like(codes_BTM, dtype=torch.bool)
    for step in range(codes_BTM.shape[-1] - 1):
        state_BTD = model.decode_on(memory_BJD, number_J, codes_BTM, order, column_T)[:, :, step]
        logits_BTMK = model.token_logits(state_BTD)
        if index is not None:
            path_BTM = torch.where(used_BTM, codes_BTM, -1)
            open_BTMK = index.admissible_tokens(path_BTM, torch.ones_like(path_BTM[..., 0], dtype=torch.bool))
            logits_BTMK = logits_BTMK.masked_fill(~open_BTMK, -torch.inf)
        confidence_BTM = logits_BTMK.softmax(-1).amax(-1).masked_fill(used_BTM, -1)
        chosen = confidence_BTM.argmax(-1, keepdim=True)
        used_BTM.scatter_(-1, chosen, True)
        order = torch.cat([order, chosen], dim=-1)
    model.train(was_training)
    last = used_BTM.int().argmin(-1, keepdim=True)  # only one codebook is left, so the model need not choose
    return torch.cat([order, last], dim=-1)
