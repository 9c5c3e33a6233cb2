"""Rollouts: groups of reasoning paths of the present policy, and the probabilities of recorded paths under a policy."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.model import Memory, Reg4RecModel, decode_paths, decode_step
from reg4rec.search import SearchConfig, search, step_indexes

__all__ = ["Policy", "RolloutKind", "Rollouts", "best_paths", "evaluate_paths", "roll_out"]

RolloutKind = Literal["sample", "beam"]


class Rollouts(NamedTuple):
    """G paths of S steps for each of B users; every path has the tokens of an existing item.

    order_BGS: the codebook of each step. code_BGS: the token taken from it. admissible_BGSK: the tokens that the step
    could take. valid_BG: False where a beam search found fewer than G paths.
    """

    order_BGS: Tensor
    code_BGS: Tensor
    admissible_BGSK: Tensor
    valid_BG: Tensor

    def tokens_BGM(self, num_codebooks: int) -> Tensor:  # noqa: N802 - a shape suffix, as on tensors
        """The token of each codebook, -1 where none was decoded."""
        none = self.code_BGS.new_full((*self.code_BGS.shape[:2], num_codebooks), -1)
        return none.scatter(2, self.order_BGS, self.code_BGS)


class Policy(NamedTuple):
    """The policy of a model on recorded paths. For every step: log_probs_BGS of its token, entropy_BGS of the policy
    (nats), and category_BGS, the most probable category after it (-1 without categories). js_BGS: Jensen-Shannon
    divergence (nats) of the categories of adjacent steps, S - 1 for each path.
    """

    log_probs_BGS: Tensor
    entropy_BGS: Tensor
    category_BGS: Tensor
    js_BGS: Tensor


@torch.no_grad()
def roll_out(
    model: Reg4RecModel,
    memory: Memory,
    index: ops.TokenIndex,
    group_size: int,
    num_steps: int,
    temperature: float,
    kind: RolloutKind = "sample",
) -> Rollouts:
    """`group_size` paths for each encoded history.

    sample: each step takes the codebook of the most confident token, as the search does (CRSS), and draws one of its
    admissible tokens from their softmax at `temperature`. beam: the best paths of a search, all different.
    Paper: rollouts, ours, D8.
    """
    if kind == "beam":
        return best_paths(model, memory, index, group_size, num_steps)
    batch, num_codebooks = len(memory.state_BD), model.config.num_codebooks
    tokens_BGM = torch.full((batch, group_size, num_codebooks), -1, device=memory.state_BD.device)
    alive_BG = torch.ones_like(tokens_BGM[..., 0], dtype=torch.bool)
    state_BGD, cache = decode_step(model, memory, None, 0, None)
    cache = cache.of_paths(torch.zeros(batch, group_size, dtype=torch.int64, device=memory.state_BD.device))
    state_BGD = state_BGD.expand(-1, group_size, -1)
    taken: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(num_steps):
        logits_BGMK = model.token_logits(state_BGD).float()
        admissible_BGMK = index.admissible_tokens(tokens_BGM, alive_BG)
        counted = logits_BGMK.masked_fill(~admissible_BGMK, -torch.inf) if model.config.renormalize else logits_BGMK
        confidence_BGM = counted.softmax(-1).nan_to_num(0).masked_fill(~admissible_BGMK, -1).amax(-1)
        codebook_BG = confidence_BGM.argmax(-1)
        admissible_BGK = _of_codebook(admissible_BGMK, codebook_BG)
        log_probs_BGK = _log_policy(_of_codebook(logits_BGMK, codebook_BG), admissible_BGK, temperature)
        code_BG = torch.multinomial(log_probs_BGK.exp().flatten(0, 1), 1).view_as(codebook_BG)
        taken.append((codebook_BG, code_BG, admissible_BGK))
        tokens_BGM = tokens_BGM.scatter(2, codebook_BG[..., None], code_BG[..., None])
        if step + 1 < num_steps:
            token_BG = codebook_BG * model.config.codebook_size + code_BG
            state_BGD, cache = decode_step(model, memory, token_BG, step + 1, cache)
    order, code, admissible = (torch.stack(values, dim=2) for values in zip(*taken, strict=True))
    return Rollouts(order, code, admissible, alive_BG)


def evaluate_paths(model: Reg4RecModel, memory: Memory, rollouts: Rollouts, temperature: float) -> Policy:
    """The policy of `model` at every step of the paths, with the recorded codebooks and admissible tokens (D8)."""
    order_BGS, code_BGS = rollouts.order_BGS, rollouts.code_BGS
    state_BGTD = decode_paths(model, memory, order_BGS * model.config.codebook_size + code_BGS)
    logits_BGSK = model.codebook_logits(state_BGTD[:, :, :-1], order_BGS).float()
    log_probs_BGSK = _log_policy(logits_BGSK, rollouts.admissible_BGSK, temperature)
    log_probs_BGS = log_probs_BGSK.gather(3, code_BGS[..., None]).squeeze(3)
    entropy_BGS = torch.special.entr(log_probs_BGSK.detach().exp()).sum(-1)
    with torch.no_grad():
        return Policy(log_probs_BGS, entropy_BGS, *_categories(model.category_logits(state_BGTD[:, :, 1:]), order_BGS))


@torch.no_grad()
def best_paths(
    model: Reg4RecModel,
    memory: Memory,
    index: ops.TokenIndex,
    group_size: int,
    num_steps: int,
    renormalize: bool = True,
) -> Rollouts:
    """The best paths of a search without CORP: alignment must see paths that contradict themselves to punish them.

    renormalize: admissible tokens are those with which the path can still become an item; else all tokens.
    """
    config = SearchConfig(group_size, prune_threshold=None, num_steps=num_steps)
    paths = search(model, memory, step_indexes(index, config.order), config)
    order_BGS, valid_BG = paths.order_BWM[..., :num_steps].clamp(min=0), paths.scores_BW > -torch.inf
    code_BGS = paths.tokens_BWM.clamp(min=0).gather(2, order_BGS)
    if renormalize:
        return Rollouts(order_BGS, code_BGS, _admissible_steps(order_BGS, code_BGS, valid_BG, index), valid_BG)
    admissible_BGSK = valid_BG.new_ones(*order_BGS.shape, model.config.codebook_size)
    return Rollouts(order_BGS, code_BGS, admissible_BGSK, valid_BG)


def _admissible_steps(order_BGS: Tensor, code_BGS: Tensor, valid_BG: Tensor, index: ops.TokenIndex) -> Tensor:
    """admissible_BGSK: at each step the tokens with which the path can still become an item; all for a missing path."""
    path_BGM, masks = code_BGS.new_full((*valid_BG.shape, len(index.counts_MK)), -1), []
    for codebook_BG, code_BG in zip(order_BGS.unbind(2), code_BGS.unbind(2), strict=True):
        masks.append(_of_codebook(index.admissible_tokens(path_BGM, valid_BG), codebook_BG) | ~valid_BG[..., None])
        path_BGM = path_BGM.scatter(2, codebook_BG[..., None], code_BG[..., None])
    return torch.stack(masks, dim=2)


def _of_codebook(values_BGMK: Tensor, codebook_BG: Tensor) -> Tensor:
    """values[b, g, codebook[b, g]]: (B, G, K)."""
    at = codebook_BG[..., None, None].expand(-1, -1, 1, values_BGMK.shape[3])
    return values_BGMK.gather(2, at).squeeze(2)


def _log_policy(logits: Tensor, admissible: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).masked_fill(~admissible, -torch.inf).log_softmax(-1)


def _categories(logits_BGSC: Tensor | None, order_BGS: Tensor) -> tuple[Tensor, Tensor]:
    if logits_BGSC is None:
        return torch.full_like(order_BGS, -1), torch.zeros(*order_BGS.shape[:2], 0, device=order_BGS.device)
    before_BGTC, after_BGTC = logits_BGSC[:, :, :-1], logits_BGSC[:, :, 1:]
    js_T = ops.js_divergence(before_BGTC.flatten(0, 2), after_BGTC.flatten(0, 2))
    return logits_BGSC.argmax(-1), js_T.view(before_BGTC.shape[:3])
