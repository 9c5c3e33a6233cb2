"""The encoder-decoder: reads a history of items, decodes the semantic tokens of the next one in any order."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from reg4rec import ops
from reg4rec.errors import InputError
from reg4rec.model.config import ModelConfig
from reg4rec.model.layers import DecoderBlock, Dropout, EncoderBlock, Rotary
from reg4rec.model.packed import Packed, PackedWeights, packed_decoder, packed_encoder
from reg4rec.storage import new_header, read_header, read_tensors, tensor_difference, write_header, write_tensors

__all__ = ["Memory", "PathCache", "Reg4RecModel"]

FORMAT, VERSION = "reg4rec-model", 3
RESIDUAL_DROPOUT = 0.3
"""In the part of an item's vector that is its own; its tokens learn to do without it."""
REPEAT_SCALE = 10.0
"""Lets AdamW's small steps take the repeat bias as far as it must go within the first epochs."""


class PathCache(NamedTuple):
    """What the decoder keeps of the paths' steps, where they were made; a path names the rows of those it goes through.

    kept_BTRZAQ: keys and values of all blocks: those of block n at 2 n and 2 n + 1. rows_BPS: the row of step s of each
    path.
    """

    kept_BTRZAQ: Tensor
    rows_BPS: Tensor

    @classmethod
    def empty(cls, memory: "Memory", num_paths: int, num_steps: int = 0, num_rows: int = 0) -> "PathCache":
        """Of paths that have made no step, with room for some steps of some rows."""
        num_both, num_users, num_heads, _, head_dim = memory.kept_ZBAJQ.shape
        kept_BTRZAQ = memory.kept_ZBAJQ.new_empty(num_users, num_steps, num_rows, num_both, num_heads, head_dim)
        rows_BPS = torch.empty(num_users, num_paths, 0, dtype=torch.int64, device=kept_BTRZAQ.device)
        return cls(kept_BTRZAQ, rows_BPS)

    def grown(self) -> "PathCache":
        """With one more step, made in the paths' own rows; what is kept moves only where there is no room for it."""
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
        """The cache of the children of these paths; keys and values stay where they are."""
        rows_BPS = self.rows_BPS.gather(1, parent_BP[..., None].expand(-1, -1, self.rows_BPS.shape[2]))
        return PathCache(self.kept_BTRZAQ, rows_BPS)


class Memory(NamedTuple):
    """What the decoder needs of the encoded histories, stored once a user and shared by all of its paths.

    kept_ZBAJQ: keys and values of all decoder blocks, as in `PathCache`, the keys rotated by how far before the next
    item they stand. visible_B11J: filled slots. state_BD: the encoder's output after the last item. decoder: weights as
    `reg4rec.ops.decoder_step` takes them, None where torch's layers decode.
    """

    kept_ZBAJQ: Tensor
    visible_B11J: Tensor
    state_BD: Tensor
    decoder: Packed | None

    def of_block(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block."""
        return self.kept_ZBAJQ[2 * block], self.kept_ZBAJQ[2 * block + 1]

    def of_users(self, user_b: Tensor) -> "Memory":
        """What is stored of some users."""
        kept_ZBAJQ = self.kept_ZBAJQ[:, user_b]
        return Memory(kept_ZBAJQ, self.visible_B11J[user_b], self.state_BD[user_b], self.decoder)


class Reg4RecModel(nn.Module):
    """Encoder, decoder, heads per codebook tied to the codebook embeddings, category head per step.

    With `num_items` it also scores whole items: the inner product of the encoder's last state and the item's vector,
    which is the sum of its token embeddings and a residual of its own. The decoder then refines that state from token
    to token. An item that no one interacted with has residual 0: its tokens speak for it.

    Codes and item rows are int64; padding holds any of them and is hidden by its length. `items_BL` is needed by
    models with `num_items` only. Paper: model, figure, D6, D14; item-level score, ours, D11.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.catalog: str | None = None
        """`Tokenizer.catalog` of the items and tokens that it was trained on; None for a model that never was"""
        self.trained_by: dict[str, Any] = {}
        """Settings of its pre-training that alignment goes on with; empty for a model that never had one"""
        c = config
        std = (c.dim * c.num_codebooks) ** -0.5
        self.tokens_MKD = nn.Parameter(torch.empty(c.num_codebooks, c.codebook_size, c.dim).normal_(std=std))
        self.start, self.separator, self.begin = (nn.Parameter(torch.empty(c.dim).normal_()) for _ in range(3))
        self.steps = nn.Parameter(torch.empty(c.num_codebooks + 1, c.dim).normal_())
        self.norm_history, self.norm_path = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.dropout = Dropout(c.dropout)
        shape = (c.dim, c.num_heads, c.ffn_dim, c.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(*shape) for _ in range(c.num_blocks))
        self.decoder = nn.ModuleList(DecoderBlock(*shape) for _ in range(c.num_blocks))
        self.category_head = nn.Linear(c.dim, c.num_categories) if c.num_categories else None
        self.rotary = Rotary(c.dim // c.num_heads)
        self._encoder_weights, self._decoder_weights = PackedWeights(packed_encoder), PackedWeights(packed_decoder)
        if c.num_items:
            self.residual_ID = nn.Parameter(torch.zeros(c.num_items, c.dim))
            self.residual_dropout = Dropout(RESIDUAL_DROPOUT)
            self.repeat = nn.Parameter(torch.zeros(()))
            self.refine = nn.Linear(c.dim, c.dim)
            nn.init.zeros_(self.refine.weight)
            nn.init.zeros_(self.refine.bias)

    @property
    def scores_items(self) -> bool:
        return self.config.num_items > 0

    @property
    def slots_per_item(self) -> int:
        """Places that one item takes in the encoder; the first of all is the start."""
        return 1 if self.config.history_layout == "pooled" else self.config.num_codebooks + 1

    @property
    def repeat_bias(self) -> Tensor:
        """What the score of an item gains when the history holds it already; far below 0 where users never repeat."""
        return REPEAT_SCALE * self.repeat

    def _decoder_blocks(self) -> list[DecoderBlock]:
        return [cast("DecoderBlock", block) for block in self.decoder]

    def embed_tokens(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Embeddings (..., D) of codes (...) in codebooks (..., broadcast)."""
        return self._rows(codes, codebooks) * self.config.dim**0.5

    def _rows(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        return nn.functional.embedding(codes + codebooks * self.config.codebook_size, self.tokens_MKD.flatten(0, 1))

    def embed_items(self, codes: Tensor, items: Tensor) -> Tensor:
        """Vectors (..., D) of items (...) with codes (..., M): the sum of their tokens' and their residual."""
        codebooks = torch.arange(codes.shape[-1], device=codes.device)
        return self._rows(codes, codebooks).sum(-2) + self._residual(items)

    def score_items(self, state_BD: Tensor, user_T: Tensor, codes_TM: Tensor, item_T: Tensor) -> Tensor:
        """scores_T: inner products of users' states (rows of state_BD) and items' vectors, token by token."""
        codebooks = torch.arange(codes_TM.shape[1], device=codes_TM.device)
        shared_T = self.token_logits(state_BD)[user_T[:, None], codebooks, codes_TM].sum(-1)
        return shared_T + (state_BD[user_T] * self._residual(item_T)).sum(-1)

    def _residual(self, items: Tensor) -> Tensor:
        return self.residual_dropout(nn.functional.embedding(items, self.residual_ID))

    def embed_history(self, codes_BLM: Tensor, items_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encoder input (B, J, D) and the item number of every slot (J,): 0 the start, 1..L the items."""
        batch, length, _ = codes_BLM.shape
        start, slots = self.start.expand(batch, 1, -1), self._item_slots(codes_BLM, items_BL)
        x_BJD = self.dropout(self.norm_history(torch.cat([start, slots], dim=1)))
        return x_BJD, self._numbers(length, codes_BLM.device)

    def _numbers(self, length: int, device: torch.device) -> Tensor:
        """The item number of every slot (J,): 0 the start, 1..L the items."""
        number = torch.arange(1, length + 1, device=device).repeat_interleave(self.slots_per_item)
        return nn.functional.pad(number, (1, 0))

    def _item_slots(self, codes: Tensor, items: Tensor | None) -> Tensor:
        """Slots (..., L * slots_per_item, D) of items (..., L) with codes (..., L, M), before the norm."""
        if self.scores_items and items is None:
            raise ValueError("a model that scores items reads item rows too, found codes alone")
        codebooks, scale = torch.arange(codes.shape[-1], device=codes.device), self.config.dim**0.5
        own = 0 if items is None or not self.scores_items else self._residual(items)
        if self.config.history_layout == "pooled":
            return (self._rows(codes, codebooks).sum(-2) + own) * scale
        separators = (self.separator + own * scale).expand(*codes.shape[:-1], -1)
        return torch.cat([separators[..., None, :], self.embed_tokens(codes, codebooks)], dim=-2).flatten(-3, -2)

    def encode(self, codes_BLM: Tensor, items_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoder output (B, J, D), causal from item to item, and the item number of every slot (J,)."""
        x_BJD, number_J = self.embed_history(codes_BLM, items_BL)
        return self._encoded(x_BJD, number_J), number_J

    def _encoded(self, x_BJD: Tensor, number_J: Tensor) -> Tensor:
        visible_JJ, turn_J = number_J[None, :] <= number_J[:, None], self.rotary(number_J)
        for block in self.encoder:
            x_BJD = block(x_BJD, turn_J, visible_JJ)
        return x_BJD

    def remember(self, codes_BLM: Tensor, length_B: Tensor, items_BL: Tensor | None = None) -> Memory:
        """Encode histories, oldest item first and padded at the end, for decoding the item that follows them."""
        encoder, decoder = self._packed()
        number_J = self._numbers(codes_BLM.shape[1], codes_BLM.device)
        visible_BJ = number_J <= length_B[:, None]
        if encoder is None:
            x_BJD = self._encoded(self.embed_history(codes_BLM, items_BL)[0], number_J)
            turn_BJ = self.rotary(number_J - length_B[:, None] - 1)
            kept_ZBAJQ = torch.stack(
                [part for block in self._decoder_blocks() for part in block.memory(x_BJD, turn_BJ)]
            )
            state_BD = self._last_states(x_BJD, length_B)
        else:
            filled_BL = visible_BJ[:, self.slots_per_item :: self.slots_per_item]
            slots_XD = self._item_slots(codes_BLM[filled_BL], None if items_BL is None else items_BL[filled_BL])
            state_BD, memory_XZAQ = self._encoded_packed(slots_XD, length_B, encoder, with_memory=True)
            # of numpy, whose zeros take no time and memory where they are never touched
            kept_BJZAQ = torch.from_numpy(np.zeros((*visible_BJ.shape, *memory_XZAQ.shape[1:]), dtype=np.float32))
            kept_BJZAQ[visible_BJ] = memory_XZAQ
            kept_ZBAJQ = kept_BJZAQ.permute(2, 0, 3, 1, 4)
        return Memory(kept_ZBAJQ, visible_BJ[:, None, None, :], state_BD, decoder)

    def states(self, item_T: Tensor, length_B: Tensor, codes_IM: Tensor, vectors_ID: Tensor | None = None) -> Tensor:
        """state_BD of `remember` alone, of histories whose items lie one behind the other, oldest first.

        item_T: item rows of user 0, of user 1, ...; length_B adds up to T. codes_IM: codes of all items. vectors_ID:
        what `embed_items` makes of them all, if it is at hand; it spares a pooled history its sums.
        """
        encoder = self._packed_encoder()
        if encoder is None:
            filled_BL = torch.arange(max(length_B.tolist(), default=0), device=length_B.device) < length_B[:, None]
            item_BL = item_T.new_zeros(filled_BL.shape)
            item_BL[filled_BL] = item_T
            return self._last_states(self.encode(codes_IM[item_BL], item_BL)[0], length_B)
        if vectors_ID is None or self.config.history_layout != "pooled":
            slots_XD = self._item_slots(codes_IM[item_T], item_T)
        else:
            slots_XD = vectors_ID.index_select(0, item_T) * self.config.dim**0.5
        return self._encoded_packed(slots_XD, length_B, encoder, with_memory=False)[0]

    def _last_states(self, x_BJD: Tensor, length_B: Tensor) -> Tensor:
        return x_BJD[torch.arange(len(x_BJD), device=x_BJD.device), length_B * self.slots_per_item]

    def _encoded_packed(
        self, slots_XD: Tensor, length_B: Tensor, encoder: Packed, with_memory: bool
    ) -> tuple[Tensor, Tensor]:
        """What `ops.encode_histories` makes of the items' slots, before which each user's start is put here."""
        num_users = len(length_B)
        if num_users == 1:
            x_XD = torch.cat([self.start[None], slots_XD])
        else:
            user_B, first_B = torch.arange(num_users, device=length_B.device), length_B.cumsum(0) - length_B
            starts_B, counts_B = first_B * self.slots_per_item + user_B, length_B * self.slots_per_item
            place_X = torch.arange(len(slots_XD), device=length_B.device) + (user_B + 1).repeat_interleave(counts_B)
            x_XD = slots_XD.new_empty(len(slots_XD) + num_users, slots_XD.shape[1])
            x_XD[place_X], x_XD[starts_B] = slots_XD, self.start
        x_XD = self.norm_history(x_XD)  # packed weights have no dropout
        longest = (len(slots_XD) // self.slots_per_item if num_users == 1 else int(length_B.max())) if num_users else 0
        cos_TQ, sin_TQ = self.rotary.table(longest + 2)
        return ops.encode_histories(x_XD, length_B, self.slots_per_item, cos_TQ, sin_TQ, *encoder, with_memory)

    def _packed_encoder(self) -> Packed | None:
        """The weights of the encoder as its op takes them, None where torch's layers run.

        These run in sub-classes too, which may do something else at any place.
        """
        if type(self) is not Reg4RecModel:
            return None
        return self._encoder_weights.of(self.encoder, *(getattr(block, "cross_kv", None) for block in self.decoder))

    def _packed(self) -> tuple[Packed, Packed] | tuple[None, None]:
        """The weights of encoder and decoder as the ops take them, None for both where torch's layers run."""
        if (encoder := self._packed_encoder()) is None:
            return None, None
        refine = self.refine if self.scores_items else None
        decoder = self._decoder_weights.of(self.decoder, self.norm_path, self.tokens_MKD, refine, self.category_head)
        return (None, None) if decoder is None else (encoder, decoder)

    @torch.no_grad()
    def search_step(
        self, memory: Memory, token_BP: Tensor | None, step: int, cache: PathCache, with_logits: bool = True
    ) -> tuple[Tensor, Tensor | None, PathCache]:
        """`decode_step` and its heads: logits of tokens (B, P, M, K), of categories (B, P, C), and the grown cache.

        Without `with_logits` those of tokens are empty; without categories theirs are None.
        """
        if memory.decoder is None:
            state_BPD, cache = self.decode_step(memory, token_BP, step, cache)
            logits_BPMK = self.token_logits(state_BPD) if with_logits else state_BPD[..., :0, None]
            return logits_BPMK, self.category_logits(state_BPD), cache
        if token_BP is None:
            inputs, scale = self._begin(memory.state_BD), 1.0
            token_BP = torch.arange(len(inputs), device=inputs.device)[:, None]
        else:
            inputs, scale = self.tokens_MKD.flatten(0, 1), self.config.dim**0.5
        grown = cache.grown()
        logits_BPO, categories_BPC = ops.decoder_step(
            *(inputs, token_BP, scale, self.steps[step], memory.state_BD, grown.kept_BTRZAQ, cache.rows_BPS),
            *(memory.kept_ZBAJQ.transpose(0, 1), memory.visible_B11J.flatten(1), *memory.decoder, with_logits),
        )
        logits_BPMK = logits_BPO.unflatten(-1, (-1, self.config.codebook_size))
        return logits_BPMK, None if self.category_head is None else categories_BPC, grown

    @torch.no_grad()
    def decode_step(
        self, memory: Memory, token_BP: Tensor | None, step: int, cache: PathCache | None
    ) -> tuple[Tensor, PathCache]:
        """Feed one more token to every path: state (B, P, D) after it and the grown cache.

        token_BP holds r * K + j; None begins one path a user. The cache's tensors are written to: go on from it once,
        and outside inference mode only where it was made so. Without gradient, which `decode_paths` has.
        """
        state_B1D = memory.state_BD[:, None]
        x_BPD = self._begin(state_B1D) if token_BP is None else self.embed_tokens(token_BP, token_BP.new_zeros(()))
        x_BPD = self.norm_path(x_BPD + self.steps[step])
        cache = (PathCache.empty(memory, x_BPD.shape[1]) if cache is None else cache).grown()
        for i, block in enumerate(self._decoder_blocks()):
            kept_BTR2AQ = cache.kept_BTRZAQ[:, :, :, 2 * i : 2 * i + 2]
            x_BPD = block.step(x_BPD, kept_BTR2AQ, cache.rows_BPS, memory.of_block(i), memory.visible_B11J)
        return self._refined(state_B1D, x_BPD), cache

    def _begin(self, state: Tensor) -> Tensor:
        return self.begin + state if self.scores_items else self.begin.expand_as(state)

    def _refined(self, state: Tensor, x: Tensor) -> Tensor:
        return state + self.refine(x) if self.scores_items else x

    def decode_paths(self, memory: Memory, token_BPS: Tensor) -> Tensor:
        """States (B, P, S + 1, D) of the decoder before, between and after the tokens (r * K + j) of known paths.

        What `decode_step` gives one token after the other, in one pass.
        """
        state_B11D = memory.state_BD[:, None, None]
        begin = self._begin(state_B11D).expand(-1, token_BPS.shape[1], -1, -1)
        fed = self.embed_tokens(token_BPS, token_BPS.new_zeros(()))
        x = self.norm_path(torch.cat([begin, fed], dim=2) + self.steps[: token_BPS.shape[2] + 1])
        for i, block in enumerate(self._decoder_blocks()):
            x = block(x, memory.of_block(i), None, memory.visible_B11J)
        return self._refined(state_B11D, x)

    def decode_on(
        self, memory_BJD: Tensor, number_J: Tensor, codes_BTM: Tensor, order_BTM: Tensor, column_T: Tensor
    ) -> Tensor:
        """States (B, T, M + 1, D) of the decoder for the items in some columns of the windows, in one pass.

        An item is decoded from the items before it, on the encoder output of all but the last; its tokens are fed in
        the order of the codebooks in order_BTM, which may name the first ones only. State t has consumed t tokens:
        states 0..M-1 predict tokens, states 1..M categories.
        """
        num_fed = order_BTM.shape[2]
        fed = self.embed_tokens(codes_BTM.gather(2, order_BTM), order_BTM)
        state_BT1D = memory_BJD[:, column_T * self.slots_per_item, None]
        x = torch.cat([self._begin(state_BT1D), fed], dim=2) + self.steps[: num_fed + 1]
        x = self.dropout(self.norm_path(x))
        target_T = column_T + 1
        visible = (number_J < target_T[:, None]).repeat_interleave(num_fed + 1, dim=0)
        turn_J = self.rotary(number_J)
        turn = tuple(t[:, None] for t in self.rotary(target_T))
        for block in self._decoder_blocks():
            x = block(x, block.memory(memory_BJD, turn_J), turn, visible)
        return self._refined(state_BT1D, x)

    def token_logits(self, state: Tensor) -> Tensor:
        """Logits (..., M, K) of every codebook for states (..., D)."""
        return (state @ self.tokens_MKD.flatten(0, 1).T).unflatten(-1, self.tokens_MKD.shape[:2])

    def codebook_logits(self, state: Tensor, codebooks: Tensor) -> Tensor:
        """Logits (..., K) of one codebook (...) for each state (..., D)."""
        order_T = codebooks.flatten().sort(stable=True).indices
        sizes = codebooks.flatten().bincount(minlength=self.config.num_codebooks).tolist()
        parts = state.flatten(0, -2)[order_T].split(sizes)
        logits_TK = torch.cat([part @ tokens_KD.T for part, tokens_KD in zip(parts, self.tokens_MKD, strict=True)])
        return logits_TK[order_T.argsort()].unflatten(0, codebooks.shape)

    def category_logits(self, state: Tensor) -> Tensor | None:
        """Logits (..., C) for states (..., D) that have consumed a token; None without categories."""
        return None if self.category_head is None else self.category_head(state)

    def extended(self, residual_TD: Tensor) -> "Reg4RecModel":
        """This model, which scores items, its weights shared, with T further items of these residuals after its own."""
        other = copy.copy(self)
        other.config = replace(self.config, num_items=self.config.num_items + len(residual_TD))
        residual_ID = torch.cat([self.residual_ID.detach(), residual_TD.to(self.residual_ID)])
        other._parameters = {**self._parameters, "residual_ID": nn.Parameter(residual_ID)}
        return other

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json` and `model.safetensors` into a folder."""
        folder = Path(folder)
        write_tensors(folder / "model.safetensors", self.state_dict())
        header = new_header(
            FORMAT, VERSION, config=asdict(self.config), catalog=self.catalog, trained_by=self.trained_by
        )
        write_header(folder / "model.json", header, ["model.safetensors"])

    @classmethod
    def from_pretrained(cls, folder: str | Path, verify: bool = True) -> "Reg4RecModel":
        """The model saved in a folder, in evaluation mode on the CPU; InputError where the files do not fit.

        `verify` False leaves the checksums of the files unread.
        """
        folder = Path(folder)
        header: dict[str, Any] = read_header(folder / "model.json", FORMAT, VERSION, verify=verify)
        stored = read_tensors(folder / "model.safetensors")
        try:
            config = ModelConfig(**header["config"])
            _check_weights(config, stored)
            model = cls(config)
            model.catalog = header["catalog"]
            if not isinstance(model.catalog, str | None):
                raise TypeError(f"its catalog is {model.catalog!r}")
            model.trained_by = header.get("trained_by", {})  # models saved before it was kept have none
            if not isinstance(model.trained_by, dict):
                raise TypeError(f"it was trained by {model.trained_by!r}")
            model.load_state_dict(stored, assign=True)  # mapped from the file, so that processes share its pages
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"{folder} does not hold a whole model: {error}") from None
        return model.eval()


def _check_weights(config: ModelConfig, stored: dict[str, Tensor]) -> None:
    """InputError unless `stored` are the weights of the configuration; takes no memory for a model of false sizes."""
    if config.num_blocks > len(stored):
        raise InputError(f"the configuration asks for {config.num_blocks} blocks, {len(stored)} tensors are stored")
    with torch.device("meta"):
        wanted = Reg4RecModel(config).state_dict()
    if (difference := tensor_difference(stored, wanted)) is not None:
        raise InputError(f"does not hold a whole model: {difference}")
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise InputError("the stored model has weights that are not finite; take an earlier checkpoint")
