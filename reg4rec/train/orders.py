"""In which order a target's tokens are fed to the decoder while it learns them (D4)."""

from typing import Literal

import torch
from torch import Tensor

from reg4rec.model import Reg4RecModel

__all__ = ["OrderPolicy", "draw_order"]

OrderPolicy = Literal["random", "crss", "fixed"]


def draw_order(policy: OrderPolicy, model: Reg4RecModel, codes_BLM: Tensor) -> Tensor:
    """order_BLM: for every target the codebooks in the order of emission.

    random: uniform permutations. fixed: 0..M-1. crss: the model's own, as in the search: at each step the unused
    codebook that holds the most probable token, the true token of which is fed. No gradient flows through it.
    Paper: pre-training, ours, D4 and D5.
    """
    if policy == "random":
        return torch.rand(codes_BLM.shape, device=codes_BLM.device).argsort(-1)
    if policy == "fixed":
        return torch.arange(codes_BLM.shape[-1], device=codes_BLM.device).expand_as(codes_BLM)
    return _confident_order(model, codes_BLM)


@torch.no_grad()
def _confident_order(model: Reg4RecModel, codes_BLM: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    memory_BSD, number_S = model.encode(codes_BLM[:, :-1])
    order = codes_BLM[..., :0]
    used_BLM = torch.zeros_like(codes_BLM, dtype=torch.bool)
    for step in range(codes_BLM.shape[-1]):
        state_BLD = model.decode_on(memory_BSD, number_S, codes_BLM, order)[:, :, step]
        confidence_BLM = model.token_logits(state_BLD).softmax(-1).amax(-1).masked_fill(used_BLM, -1)
        chosen = confidence_BLM.argmax(-1, keepdim=True)
        used_BLM.scatter_(-1, chosen, True)
        order = torch.cat([order, chosen], dim=-1)
    model.train(was_training)
    return order
