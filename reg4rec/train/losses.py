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
    state_NSD: Tensor,
    codes_NM: Tensor,
    order_NM: Tensor,
    category_N: Tensor,
    targets: StepTargets = "open",
    index: ops.TokenIndex | None = None,
) -> dict[str, Tensor]:
    """Mean losses of N decoded targets: `token_loss`, and `category_loss` where the model has categories.

    state_NSD (S = M + 1) comes from `Reg4RecModel.decode_on`. Step t predicts the tokens of all codebooks that are
    still open, and the loss is the mean over all these predictions: each counts the same, at whichever step it is made.
    With `targets` "next" a step predicts only the token that is fed next, as in the usual next-token loss. With an
    `index` of the items the probability of a token is among those by which the path can still become an item. The
    category is predicted from every state that has consumed a token; targets of category -1 are ignored.
    Paper: pre-training, ours, D4 and D6.
    """
    num_codebooks = codes_NM.shape[-1]
    rank_NM = order_NM.argsort(-1)
    steps = torch.arange(num_codebooks, device=rank_NM.device)
    open_NSM = rank_NM[:, None, :] >= steps[:, None] if targets == "open" else rank_NM[:, None, :] == steps[:, None]
    token_loss_T = ops.token_cross_entropy(
        state_NSD[:, :-1].flatten(0, 1),
        model.tokens_MKD,
        codes_NM.repeat_interleave(num_codebooks, 0),
        open_NSM.flatten(0, 1),
        None if index is None else _admissible_next(codes_NM, rank_NM, index).flatten(0, 1),
    )
    num_open_T = open_NSM.flatten(0, 1).sum(1)
    losses = {"token_loss": distributed.ratio((token_loss_T * num_open_T).sum(), num_open_T.sum())}
    logits_NSC = model.category_logits(state_NSD[:, 1:])
    if logits_NSC is not None:
        losses |= _category_loss(logits_NSC, category_N)
    return losses


def _admissible_next(codes_NM: Tensor, rank_NM: Tensor, index: ops.TokenIndex) -> Tensor:
    """(N, S, M, K): the tokens by which a target's path can still become an item after step s = 0..M-1.

    rank_NM: the step at which each codebook's token is fed.
    """
    steps_S1 = torch.arange(codes_NM.shape[1], device=codes_NM.device)[:, None]
    path_NSM = torch.where(rank_NM[:, None, :] < steps_S1, codes_NM[:, None, :], -1)
    return index.admissible_tokens(path_NSM, torch.ones_like(path_NSM[..., 0], dtype=torch.bool))


def _category_loss(logits_NSC: Tensor, category_N: Tensor) -> dict[str, Tensor]:
    target_NS = category_N[:, None].expand(logits_NSC.shape[:2])
    known = (target_NS >= 0).sum()
    total = F.cross_entropy(logits_NSC.flatten(0, 1), target_NS.flatten(), ignore_index=-1, reduction="sum")
    hits = (logits_NSC.argmax(-1) == target_NS).sum()
    return {"category_loss": distributed.ratio(total, known), "category_accuracy": distributed.ratio(hits, known)}
