"""Decoding: encode histories, cache the paths' keys and values, take decoder steps; the ops run wherever they can."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.model.batches import Batch
from reg4rec.model.packed import Packed
from reg4rec.model.transformer import Reg4RecModel

__all__ = [
    "Memory",
    "PathCache",
    "decode_paths",
    "decode_step",
    "encoded",
    "encoded_histories",
    "last_states",
    "remember",
    "search_step",
]


class PathCache(NamedTuple):
    """The decoder's keys and values of all steps so far. They never move: each path lists the rows it goes through.

    kept_BTRZAQ: keys and values by step T and row R; block n has its keys at Z = 2 n and its values at 2 n + 1.
    rows_BPS: the row of path p at step s.
    """

    kept_BTRZAQ: Tensor
    rows_BPS: Tensor

    @classmethod
    def empty(cls, memory: "Memory", num_paths: int, num_steps: int = 0, num_rows: int = 0) -> "PathCache":
        """The cache before the first step, with room for `num_steps` steps of `num_rows` rows."""
        num_both, num_users, num_heads, _, head_dim = memory.kept_ZBAJQ.shape
        kept_BTRZAQ = memory.kept_ZBAJQ.new_empty(num_users, num_steps, num_rows, num_both, num_heads, head_dim)
        rows_BPS = torch.empty(num_users, num_paths, 0, dtype=torch.int64, device=kept_BTRZAQ.device)
        return cls(kept_BTRZAQ, rows_BPS)

    def grown(self) -> "PathCache":
        """The cache with one more step, in which path p has row p; keys and values are copied only to make room."""
        num_users, num_paths, step = self.rows_BPS.shape
        own_BP1 = torch.arange(num_paths, device=self.rows_BPS.device)[:, None].expand(num_users, num_paths, 1)
        kept_BTRZAQ = self.kept_BTRZAQ
        if kept_BTRZAQ.shape[1] <= step or kept_BTRZAQ.shape[2] < num_paths:
            num_rows = kept_BTRZAQ.shape[2]
            room = kept_BTRZAQ.new_empty(num_users, 2 * step + 3, max(num_paths, num_rows), *kept_BTRZAQ.shape[3:])
            room[:, :step, :num_rows] = kept_BTRZAQ[:, :step]
            kept_BTRZAQ = room
        return PathCache(kept_BTRZAQ, torch.cat([self.rows_BPS, own_BP1], dim=2))

    def of_paths(self, parent_BP: Tensor) -> "PathCache":
        """The cache of paths that continue the paths parent_BP; keys and values are not copied."""
        rows_BPS = self.rows_BPS.gather(1, parent_BP[..., None].expand(-1, -1, self.rows_BPS.shape[2]))
        return PathCache(self.kept_BTRZAQ, rows_BPS)


class Memory(NamedTuple):
    """The encoded histories as the decoder reads them, stored once for each user and shared by all paths of the user.

    kept_ZBAJQ: keys and values of all decoder blocks, Z as in `PathCache`; keys are rotated by their distance to the
    next item. visible_B11J: slots that are not padding. state_BD: the encoder's output after the last item.
    packed_decoder: weights for `reg4rec.ops.decoder_step`, None if torch's layers decode.
    """

    kept_ZBAJQ: Tensor
    visible_B11J: Tensor
    state_BD: Tensor
    packed_decoder: Packed | None

    def of_block(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block."""
        return self.kept_ZBAJQ[2 * block], self.kept_ZBAJQ[2 * block + 1]

    def of_users(self, user_b: Tensor) -> "Memory":
        """The memory of some of the users (rows user_b)."""
        kept_ZBAJQ = self.kept_ZBAJQ[:, user_b]
        return Memory(kept_ZBAJQ, self.visible_B11J[user_b], self.state_BD[user_b], self.packed_decoder)


def remember(model: Reg4RecModel, codes_BLM: Tensor, length_B: Tensor, items_BL: Tensor | None = None) -> Memory:
    """Encode histories (oldest item first, padded at the end), ready to decode the item that follows each of them."""
    encoder, decoder = _packed(model)
    number_J = model.slot_numbers(codes_BLM.shape[1], codes_BLM.device)
    visible_BJ = number_J <= length_B[:, None]
    if encoder is None:
        x_BJD = model.encoded(model.embed_history(codes_BLM, items_BL)[0], number_J)
        turn_BJ = model.rotary(number_J - length_B[:, None] - 1)
        kept_ZBAJQ = torch.stack([part for block in model.decoder_blocks() for part in block.memory(x_BJD, turn_BJ)])
        state_BD = _states_after(model, x_BJD, length_B)
    else:
        filled_BL = visible_BJ[:, model.slots_per_item :: model.slots_per_item]
        slots_XD = model.item_slots(codes_BLM[filled_BL], None if items_BL is None else items_BL[filled_BL])
        state_BD, memory_XZAQ = _encoded_packed(model, slots_XD, length_B, encoder, with_memory=True)
        # numpy's zeros cost neither time nor memory until they are written to, torch's do
        kept_BJZAQ = torch.from_numpy(np.zeros((*visible_BJ.shape, *memory_XZAQ.shape[1:]), dtype=np.float32))
        kept_BJZAQ[visible_BJ] = memory_XZAQ
        kept_ZBAJQ = kept_BJZAQ.permute(2, 0, 3, 1, 4)
    return Memory(kept_ZBAJQ, visible_BJ[:, None, None, :], state_BD, decoder)


def encoded(model: Reg4RecModel, codes_IM: Tensor, batch: Batch) -> Memory:
    """The memory of the batch's histories."""
    item_BL, length_B, _ = batch.to(codes_IM.device)
    return remember(model, codes_IM[item_BL], length_B, item_BL)


def encoded_histories(model: Reg4RecModel, codes_IM: Tensor, histories: Sequences) -> Memory:
    """The memory of histories of item rows, each cut to the newest items that the model reads."""
    return encoded(model, codes_IM, Batch.of(histories, model.config.max_history))


def last_states(
    model: Reg4RecModel, item_T: Tensor, length_B: Tensor, codes_IM: Tensor, vectors_ID: Tensor | None = None
) -> Tensor:
    """Only the state_BD of `remember`, for histories that are concatenated without padding, oldest item first.

    item_T: item rows of user 0, of user 1, ...; length_B adds up to T. codes_IM: codes of all items. vectors_ID: the
    result of `embed_items` for all items, if known; a pooled history then need not sum up token embeddings.
    """
    encoder = _packed_encoder(model)
    if encoder is None:
        filled_BL = torch.arange(max(length_B.tolist(), default=0), device=length_B.device) < length_B[:, None]
        item_BL = item_T.new_zeros(filled_BL.shape)
        item_BL[filled_BL] = item_T
        return _states_after(model, model.encode(codes_IM[item_BL], item_BL)[0], length_B)
    if vectors_ID is None or model.config.history_layout != "pooled":
        slots_XD = model.item_slots(codes_IM[item_T], item_T)
    else:
        slots_XD = vectors_ID.index_select(0, item_T) * model.config.dim**0.5
    return _encoded_packed(model, slots_XD, length_B, encoder, with_memory=False)[0]


def _states_after(model: Reg4RecModel, x_BJD: Tensor, length_B: Tensor) -> Tensor:
    return x_BJD[torch.arange(len(x_BJD), device=x_BJD.device), length_B * model.slots_per_item]


def _encoded_packed(
    model: Reg4RecModel, slots_XD: Tensor, length_B: Tensor, encoder: Packed, with_memory: bool
) -> tuple[Tensor, Tensor]:
    """Puts the start slot before each user's item slots and returns the result of `ops.encode_histories`."""
    num_users = len(length_B)
    if num_users == 1:
        x_XD = torch.cat([model.start[None], slots_XD])
    else:
        user_B, first_B = torch.arange(num_users, device=length_B.device), length_B.cumsum(0) - length_B
        starts_B, counts_B = first_B * model.slots_per_item + user_B, length_B * model.slots_per_item
        place_X = torch.arange(len(slots_XD), device=length_B.device) + (user_B + 1).repeat_interleave(counts_B)
        x_XD = slots_XD.new_empty(len(slots_XD) + num_users, slots_XD.shape[1])
        x_XD[place_X], x_XD[starts_B] = slots_XD, model.start
    x_XD = model.norm_history(x_XD)  # packed weights have no dropout
    longest = (len(slots_XD) // model.slots_per_item if num_users == 1 else int(length_B.max())) if num_users else 0
    cos_TQ, sin_TQ = model.rotary.table(longest + 2)
    return ops.encode_histories(x_XD, length_B, model.slots_per_item, cos_TQ, sin_TQ, *encoder, with_memory)


def _packed_encoder(model: Reg4RecModel) -> Packed | None:
    """The encoder's weights, packed for its op; None if torch's layers must run."""
    if type(model) is not Reg4RecModel:  # a subclass may override any method, which the op would not call
        return None
    return model.encoder_weights.of(model.encoder, *(getattr(block, "cross_kv", None) for block in model.decoder))


def _packed(model: Reg4RecModel) -> tuple[Packed, Packed] | tuple[None, None]:
    """The weights of encoder and decoder, packed for their ops; None for both if torch's layers must run."""
    if (encoder := _packed_encoder(model)) is None:
        return None, None
    refine = model.refine if model.scores_items else None
    decoder = model.decoder_weights.of(model.decoder, model.norm_path, model.tokens_MKD, refine, model.category_head)
    return (None, None) if decoder is None else (encoder, decoder)


@torch.no_grad()
def search_step(
    model: Reg4RecModel, memory: Memory, token_BP: Tensor | None, step: int, cache: PathCache, with_logits: bool = True
) -> tuple[Tensor, Tensor | None, PathCache]:
    """Take a decoder step: token logits (B, P, M, K), category logits (B, P, C), and the grown cache.

    Arguments as in `decode_step`. `with_logits` False leaves the token logits empty. Category logits are None in a
    model without categories.
    """
    if memory.packed_decoder is None:
        state_BPD, cache = decode_step(model, memory, token_BP, step, cache)
        logits_BPMK = model.token_logits(state_BPD) if with_logits else state_BPD[..., :0, None]
        return logits_BPMK, model.category_logits(state_BPD), cache
    if token_BP is None:
        inputs, scale = model.begin_state(memory.state_BD), 1.0
        token_BP = torch.arange(len(inputs), device=inputs.device)[:, None]
    else:
        inputs, scale = model.tokens_MKD.flatten(0, 1), model.config.dim**0.5
    grown = cache.grown()
    logits_BPO, categories_BPC = ops.decoder_step(
        *(inputs, token_BP, scale, model.steps[step], memory.state_BD, grown.kept_BTRZAQ, cache.rows_BPS),
        *(memory.kept_ZBAJQ.transpose(0, 1), memory.visible_B11J.flatten(1), *memory.packed_decoder, with_logits),
    )
    logits_BPMK = logits_BPO.unflatten(-1, (-1, model.config.codebook_size))
    return logits_BPMK, None if model.category_head is None else categories_BPC, grown


@torch.no_grad()
def decode_step(
    model: Reg4RecModel, memory: Memory, token_BP: Tensor | None, step: int, cache: PathCache | None
) -> tuple[Tensor, PathCache]:
    """Feed one more token to every path: the state (B, P, D) after it and the grown cache.

    token_BP holds r * K + j for token j of codebook r; None begins one path for each user. The step writes into the
    cache's tensors: continue from a cache only once, and outside inference mode only if it was made outside of it.
    Computes no gradient; `decode_paths` does.
    """
    state_B1D = memory.state_BD[:, None]
    x_BPD = model.begin_state(state_B1D) if token_BP is None else model.embed_tokens(token_BP, token_BP.new_zeros(()))
    x_BPD = model.norm_path(x_BPD + model.steps[step])
    cache = (PathCache.empty(memory, x_BPD.shape[1]) if cache is None else cache).grown()
    for i, block in enumerate(model.decoder_blocks()):
        kept_BTR2AQ = cache.kept_BTRZAQ[:, :, :, 2 * i : 2 * i + 2]
        x_BPD = block.step(x_BPD, kept_BTR2AQ, cache.rows_BPS, memory.of_block(i), memory.visible_B11J)
    return model.refined(state_B1D, x_BPD), cache


def decode_paths(model: Reg4RecModel, memory: Memory, token_BPS: Tensor) -> Tensor:
    """Decoder states (B, P, S + 1, D) before, between and after the tokens (r * K + j) of known paths.

    The same states as those of S + 1 calls of `decode_step`, but in one pass and with a gradient.
    """
    state_B11D = memory.state_BD[:, None, None]
    begin = model.begin_state(state_B11D).expand(-1, token_BPS.shape[1], -1, -1)
    fed = model.embed_tokens(token_BPS, token_BPS.new_zeros(()))
    x = model.norm_path(torch.cat([begin, fed], dim=2) + model.steps[: token_BPS.shape[2] + 1])
    for i, block in enumerate(model.decoder_blocks()):
        x = block(x, memory.of_block(i), None, memory.visible_B11J)
    return model.refined(state_B11D, x)
