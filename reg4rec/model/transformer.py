"""The encoder-decoder: reads a history of items, decodes the semantic tokens of the next one in any order."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from reg4rec.errors import InputError
from reg4rec.model.config import ModelConfig
from reg4rec.model.layers import DecoderBlock, Dropout, EncoderBlock, Rotary
from reg4rec.model.packed import PackedWeights, packed_decoder, packed_encoder
from reg4rec.storage import (
    new_header,
    read_header,
    read_tensors,
    tensor_difference,
    weights_wanted,
    write_header,
    write_tensors,
)

__all__ = ["Reg4RecModel"]

FORMAT, VERSION = "reg4rec-model", 3
RESIDUAL_DROPOUT = 0.3
"""Dropout of an item's residual, so that its tokens learn to do without it."""
REPEAT_SCALE = 10.0
"""Scales the repeat bias, so that AdamW's small steps move it far enough within the first epochs."""


class Reg4RecModel(nn.Module):
    """Encoder, decoder, heads per codebook tied to the codebook embeddings, category head per step.

    With `num_items` it also scores items directly: an item's score is the inner product of the encoder's last state and
    the item's vector, which is the sum of its token embeddings plus a residual for this item. The decoder then refines
    that state from token to token. The residual of an item without interactions is 0: only its tokens count.

    Codes and item rows are int64; padding may hold any valid value, lengths hide it. Only models with `num_items` need
    `items_BL`. Paper: model, figure, D6, D14; item-level score, ours, D11.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.catalog: str | None = None
        """`Tokenizer.catalog` of the items and tokens that the model was trained on; None before training"""
        self.trained_by: dict[str, Any] = {}
        """settings of its pre-training, which alignment uses again; empty before pre-training"""
        self.row_tables: tuple[str, ...] = ()
        """names of parameters with sparse gradients for `reg4rec.optimizer.RowAdamW`: none, or `residual_ID`"""
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
        self.encoder_weights, self.decoder_weights = PackedWeights(packed_encoder), PackedWeights(packed_decoder)
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
        """How many encoder slots one item takes; one start slot comes before all items."""
        return 1 if self.config.history_layout == "pooled" else self.config.num_codebooks + 1

    @property
    def repeat_bias(self) -> Tensor:
        """Added to the score of an item that is in the history already; far below 0 if users never repeat items."""
        return REPEAT_SCALE * self.repeat

    def decoder_blocks(self) -> list[DecoderBlock]:
        return [cast("DecoderBlock", block) for block in self.decoder]

    def embed_tokens(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Embeddings (..., D) of codes (...) in codebooks (..., broadcast)."""
        return self._rows(codes, codebooks) * self.config.dim**0.5

    def _rows(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        return nn.functional.embedding(codes + codebooks * self.config.codebook_size, self.tokens_MKD.flatten(0, 1))

    def embed_items(self, codes: Tensor, items: Tensor) -> Tensor:
        """Vectors (..., D) of items (...) with codes (..., M): the sum of token embeddings plus the residual."""
        codebooks = torch.arange(codes.shape[-1], device=codes.device)
        return self._rows(codes, codebooks).sum(-2) + self._residual(items)

    def score_items(
        self, state_BD: Tensor, history_BX: Tensor, user_T: Tensor, codes_TM: Tensor, item_T: Tensor
    ) -> Tensor:
        """scores_T of T pairs of a user (user_T, row of state_BD) and an item: inner products of state and vector.

        Items in the user's row of history_BX (padded with -1) get the repeat bias. Runs in full precision.
        """
        with torch.autocast(state_BD.device.type, enabled=False):
            state_BD = state_BD.to(self.begin.dtype)
            codebooks = torch.arange(codes_TM.shape[1], device=codes_TM.device)
            shared_T = self.token_logits(state_BD)[user_T[:, None], codebooks, codes_TM].sum(-1)
            score_T = shared_T + (state_BD[user_T] * self._residual(item_T)).sum(-1)
        return score_T + self.repeat_bias * (history_BX[user_T] == item_T[:, None]).any(1)

    def _residual(self, items: Tensor) -> Tensor:
        by_row = "residual_ID" in self.row_tables
        return self.residual_dropout(nn.functional.embedding(items, self.residual_ID, sparse=by_row))

    def embed_history(self, codes_BLM: Tensor, items_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encoder input (B, J, D) and the item number of every slot (J,): 0 for the start, 1..L for the items."""
        batch, length, _ = codes_BLM.shape
        start, slots = self.start.expand(batch, 1, -1), self.item_slots(codes_BLM, items_BL)
        x_BJD = self.dropout(self.norm_history(torch.cat([start, slots], dim=1)))
        return x_BJD, self.slot_numbers(length, codes_BLM.device)

    def slot_numbers(self, length: int, device: torch.device) -> Tensor:
        """The item number of every slot (J,): 0 for the start, 1..L for the items."""
        number = torch.arange(1, length + 1, device=device).repeat_interleave(self.slots_per_item)
        return nn.functional.pad(number, (1, 0))

    def item_slots(self, codes: Tensor, items: Tensor | None) -> Tensor:
        """Slots (..., L * slots_per_item, D) of items (..., L) with codes (..., L, M), before the norm."""
        if self.scores_items and items is None:
            raise ValueError("a model that scores items needs item rows too, found only codes")
        codebooks, scale = torch.arange(codes.shape[-1], device=codes.device), self.config.dim**0.5
        own = 0 if items is None or not self.scores_items else self._residual(items)
        if self.config.history_layout == "pooled":
            return (self._rows(codes, codebooks).sum(-2) + own) * scale
        separators = (self.separator + own * scale).expand(*codes.shape[:-1], -1)
        return torch.cat([separators[..., None, :], self.embed_tokens(codes, codebooks)], dim=-2).flatten(-3, -2)

    def forward(self, codes_BLM: Tensor, items_BL: Tensor | None = None) -> Tensor:
        """The state (B, J, D) after each slot: the user before the first item, after it, and so on.

        The product of a state and `embed_items` scores items. Training by your own loop: examples/extend.py.
        """
        return self.encode(codes_BLM, items_BL)[0]

    def encode(self, codes_BLM: Tensor, items_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoder output (B, J, D) and the item number of every slot (J,); an item sees itself and earlier items."""
        x_BJD, number_J = self.embed_history(codes_BLM, items_BL)
        return self.encoded(x_BJD, number_J), number_J

    def encoded(self, x_BJD: Tensor, number_J: Tensor) -> Tensor:
        visible_JJ, turn_J = number_J[None, :] <= number_J[:, None], self.rotary(number_J)
        for block in self.encoder:
            x_BJD = block(x_BJD, turn_J, visible_JJ)
        return x_BJD

    def begin_state(self, state: Tensor) -> Tensor:
        return self.begin + state if self.scores_items else self.begin.expand_as(state)

    def refined(self, state: Tensor, x: Tensor) -> Tensor:
        return state + self.refine(x) if self.scores_items else x

    def decode_on(
        self, memory_BJD: Tensor, number_J: Tensor, codes_BTM: Tensor, order_BTM: Tensor, column_T: Tensor
    ) -> Tensor:
        """Decoder states (B, T, M + 1, D) for the target items in columns column_T of the windows, in one pass.

        memory_BJD is the encoder output of all items but the last; each target sees only the items before it. Its
        tokens are fed in the codebook order of order_BTM, which may stop before M. State t has consumed t tokens:
        states 0..M-1 predict tokens, states 1..M predict categories.
        """
        num_fed = order_BTM.shape[2]
        fed = self.embed_tokens(codes_BTM.gather(2, order_BTM), order_BTM)
        state_BT1D = memory_BJD[:, column_T * self.slots_per_item, None]
        x = torch.cat([self.begin_state(state_BT1D), fed], dim=2) + self.steps[: num_fed + 1]
        x = self.dropout(self.norm_path(x))
        target_T = column_T + 1
        visible = (number_J < target_T[:, None]).repeat_interleave(num_fed + 1, dim=0)
        turn_J = self.rotary(number_J)
        turn = tuple(t[:, None] for t in self.rotary(target_T))
        for block in self.decoder_blocks():
            x = block(x, block.memory(memory_BJD, turn_J), turn, visible)
        return self.refined(state_BT1D, x)

    def token_logits(self, state: Tensor) -> Tensor:
        """Token logits (..., M, K) of all codebooks for states (..., D)."""
        return (state @ self.tokens_MKD.flatten(0, 1).T).unflatten(-1, self.tokens_MKD.shape[:2])

    def codebook_logits(self, state: Tensor, codebooks: Tensor) -> Tensor:
        """Logits (..., K) of one codebook (...) for each state (..., D)."""
        order_T = codebooks.flatten().sort(stable=True).indices
        sizes = codebooks.flatten().bincount(minlength=self.config.num_codebooks).tolist()
        parts = state.flatten(0, -2)[order_T].split(sizes)
        logits_TK = torch.cat([part @ tokens_KD.T for part, tokens_KD in zip(parts, self.tokens_MKD, strict=True)])
        return logits_TK[order_T.argsort()].unflatten(0, codebooks.shape)

    def category_logits(self, state: Tensor) -> Tensor | None:
        """Category logits (..., C) for states (..., D) after at least one token; None without categories."""
        return None if self.category_head is None else self.category_head(state)

    def extended(self, residual_TD: Tensor) -> "Reg4RecModel":
        """A model that scores T more items, with these residuals; all other weights are shared with this one.

        Only for models that score items.
        """
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
        """The model saved in a folder, in evaluation mode on the CPU.

        `verify=False` skips the checksums. InputError if files are missing, damaged or do not fit each other.
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
                raise TypeError(f"the catalog in model.json is {model.catalog!r}")
            model.trained_by = header.get("trained_by", {})  # older models were saved without it
            if not isinstance(model.trained_by, dict):
                raise TypeError(f"trained_by in model.json is {model.trained_by!r}")
            model.load_state_dict(stored, assign=True)  # mapped from the file, so that processes share its pages
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"{folder} does not contain a complete model: {error}") from None
        return model.eval()


def _check_weights(config: ModelConfig, stored: dict[str, Tensor]) -> None:
    """InputError unless `stored` are the weights of the configuration; allocates nothing, even for wrong sizes."""
    if config.num_blocks > len(stored):
        raise InputError(f"the configuration asks for {config.num_blocks} blocks, {len(stored)} tensors are stored")
    wanted = weights_wanted(lambda: Reg4RecModel(config))
    if (difference := tensor_difference(stored, wanted)) is not None:
        raise InputError(f"the stored weights do not fit the configuration: {difference}")
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise InputError("the stored model has weights that are not finite; use an earlier checkpoint")
