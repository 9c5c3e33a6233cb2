"""The token and category losses of pre-training: any-order token prediction, and a category at every reasoning step."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from reg4rec import distributed, ops
from reg4rec.model import Reg4RecModel

__all__ = ["StepTargets", "path_losses"]

StepTargets = Literal["open", "next"]


def path_losses(
    model: Reg4RecModel,
    state_XSD: Tensor,
    codes_XM: Tensor,
    order_XM: Tensor,
    category_X: Tensor,
    targets: StepTargets = "open",
    index: ops.TokenIndex | None = None,
    weight_X: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean losses of X decoded targets: `token_loss`, and `category_loss` if the model has categories.

    state_XSD (S = M + 1) comes from `Reg4RecModel.decode_on`. Step t predicts the tokens of all codebooks that are
    still open (not fed yet); the loss is the mean over all predictions of all steps. With `targets` "next" a step
    predicts only the token that is fed next, as in the usual next-token loss. With an `index` of the items, a token's
    probability is normalized over the tokens with which the path can still become an item. The category is predicted
    from every state that has consumed a token; targets of category -1 are ignored. weight_X multiplies the losses of
    each target before the means; `category_accuracy` ignores weights.
    Paper: pre-training, ours, D4 and D6.
    """
    num_codebooks = codes_XM.shape[-1]
    rank_XM = order_XM.argsort(-1)
    steps = torch.arange(num_codebooks, device=rank_XM.device)
    open_XSM = rank_XM[:, None, :] >= steps[:, None] if targets == "open" else rank_XM[:, None, :] == steps[:, None]
    token_loss_T = ops.token_cross_entropy(
        state_XSD[:, :-1].flatten(0, 1),
        model.tokens_MKD,
        codes_XM.repeat_interleave(num_codebooks, 0),
        open_XSM.flatten(0, 1),
        None if index is None else _admissible_next(codes_XM, rank_XM, index).flatten(0, 1),
    )
    num_open_T = open_XSM.flatten(0, 1).sum(1)
    if weight_X is not None:
        token_loss_T = token_loss_T * weight_X.repeat_interleave(num_codebooks)
    losses = {"token_loss": distributed.ratio((token_loss_T * num_open_T).sum(), num_open_T.sum())}
    logits_XSC = model.category_logits(state_XSD[:, 1:])
    if logits_XSC is not None:
        losses |= _category_loss(logits_XSC, category_X, weight_X)
    return losses


def _admissible_next(codes_XM: Tensor, rank_XM: Tensor, index: ops.TokenIndex) -> Tensor:
    """(X, S, M, K), bool: the tokens with which a target's path of s = 0..M-1 tokens can still become an item.

    rank_XM: the step at which each codebook's token is fed.
    """
    steps_S1 = torch.arange(codes_XM.shape[1], device=codes_XM.device)[:, None]
    path_XSM = torch.where(rank_XM[:, None, :] < steps_S1, codes_XM[:, None, :], -1)
    return index.admissible_tokens(path_XSM, torch.ones_like(path_XSM[..., 0], dtype=torch.bool))


def _category_loss(logits_XSC: Tensor, category_X: Tensor, weight_X: Tensor | None) -> dict[str, Tensor]:
    target_XS = category_X[:, None].expand(logits_XSC.shape[:2])
    known = (target_XS >= 0).sum()
    flat = logits_XSC.flatten(0, 1), target_XS.flatten()
    if weight_X is None:
        total = F.cross_entropy(*flat, ignore_index=-1, reduction="sum")
    else:
        losses_XS = F.cross_entropy(*flat, ignore_index=-1, reduction="none").view_as(target_XS)
        total = (losses_XS * weight_X[:, None]).sum()
    hits = (logits_XSC.argmax(-1) == target_XS).sum()
    return {"category_loss": distributed.ratio(total, known), "category_accuracy": distributed.ratio(hits, known)}
