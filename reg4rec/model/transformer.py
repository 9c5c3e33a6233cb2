"""The encoder-decoder: reads a history of items, decodes the semantic tokens of the next one in any order."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from reg4rec.errors import InputError
from reg4rec.model.config import ModelConfig
from reg4rec.model.layers import DecoderBlock, EncoderBlock, Rotary
from reg4rec.storage import read_header, read_tensors, write_json, write_tensors

__all__ = ["Memory", "PathCache", "Reg4RecModel"]

MODEL_FORMAT = "reg4rec-model"
MODEL_VERSION = 1

PathCache = list[tuple[Tensor, Tensor]]
"""Per decoder block, keys and values (B, P, heads, t, head_dim) of the positions decoded so far."""


class Memory(NamedTuple):
    """What the decoder needs of the encoded histories, stored once a user and shared by all of its paths.

    blocks: keys and values per decoder block, (B, heads, S, head_dim). visible_B11S: filled slots.
    position_B: the item number of the next item.
    """

    blocks: list[tuple[Tensor, Tensor]]
    visible_B11S: Tensor
    position_B: Tensor


class Reg4RecModel(nn.Module):
    """Encoder, decoder, heads per codebook tied to the codebook embeddings, category head per step.

    Codes are int64; a history row of padding holds any code and is hidden by its length. Paper: model, figure, D6, D14.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        c = config
        self.tokens_MKD = nn.Parameter(torch.empty(c.num_codebooks, c.codebook_size, c.dim).normal_(std=c.dim**-0.5))
        self.start, self.separator, self.begin = (nn.Parameter(torch.empty(c.dim).normal_()) for _ in range(3))
        self.steps = nn.Parameter(torch.empty(c.num_codebooks + 1, c.dim).normal_())
        self.norm_history, self.norm_path = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.dropout = nn.Dropout(c.dropout)
        shape = (c.dim, c.num_heads, c.ffn_dim, c.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(*shape) for _ in range(c.num_blocks))
        self.decoder = nn.ModuleList(DecoderBlock(*shape) for _ in range(c.num_blocks))
        self.category_head = nn.Linear(c.dim, c.num_categories) if c.num_categories else None
        self.rotary = Rotary(c.dim // c.num_heads)

    def _decoder_blocks(self) -> list[DecoderBlock]:
        return [cast("DecoderBlock", block) for block in self.decoder]

    def embed_tokens(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Embeddings (..., D) of codes (...) in codebooks (..., broadcast)."""
        flat = codes + codebooks * self.config.codebook_size
        return nn.functional.embedding(flat, self.tokens_MKD.flatten(0, 1)) * self.config.dim**0.5

    def embed_history(self, codes_BLM: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder input (B, S, D) and the item number of every slot (S,): 0 the start, 1..L the items."""
        batch, length, num_codebooks = codes_BLM.shape
        embedded = self.embed_tokens(codes_BLM, torch.arange(num_codebooks, device=codes_BLM.device))
        if self.config.history_layout == "pooled":
            slots, per_item = embedded.sum(2) * num_codebooks**-0.5, 1
        else:
            separator = self.separator.expand(batch, length, 1, -1)
            slots, per_item = torch.cat([separator, embedded], dim=2).flatten(1, 2), num_codebooks + 1
        start = self.start.expand(batch, 1, -1)
        number = torch.arange(1, length + 1, device=codes_BLM.device).repeat_interleave(per_item)
        x_BSD = self.dropout(self.norm_history(torch.cat([start, slots], dim=1)))
        return x_BSD, nn.functional.pad(number, (1, 0))

    def encode(self, codes_BLM: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder output (B, S, D), causal from item to item, and the item number of every slot (S,)."""
        x_BSD, number_S = self.embed_history(codes_BLM)
        visible_SS = number_S[None, :] <= number_S[:, None]
        turn_S = self.rotary(number_S)
        for block in self.encoder:
            x_BSD = block(x_BSD, turn_S, visible_SS)
        return x_BSD, number_S

    def remember(self, codes_BLM: Tensor, length_B: Tensor) -> Memory:
        """Encode histories, oldest item first and padded at the end, for decoding the item that follows them."""
        x_BSD, number_S = self.encode(codes_BLM)
        turn_S = self.rotary(number_S)
        blocks = [block.memory(x_BSD, turn_S) for block in self._decoder_blocks()]
        return Memory(blocks, (number_S <= length_B[:, None])[:, None, None, :], length_B + 1)

    def decode_step(
        self, memory: Memory, token_BP: Tensor | None, step: int, cache: PathCache | None
    ) -> tuple[Tensor, PathCache]:
        """Feed one more token to every path: state (B, P, D) after it and the grown cache.

        token_BP holds r * K + j; None begins one path a user.
        """
        if token_BP is None:
            x_BPD = self.begin.expand(len(memory.position_B), 1, -1)
        else:
            x_BPD = self.embed_tokens(token_BP, token_BP.new_zeros(()))
        x = self.norm_path(x_BPD + self.steps[step])[:, :, None]
        turn = tuple(t[:, None, None] for t in self.rotary(memory.position_B))
        grown: PathCache = []
        for i, block in enumerate(self.decoder):
            x, keys_values = block(x, cache[i] if cache else None, memory.blocks[i], turn, memory.visible_B11S)
            grown.append(keys_values)
        return x[:, :, 0], grown

    def decode_targets(self, codes_BLM: Tensor, order_BLM: Tensor) -> Tensor:
        """States (B, L, M + 1, D) of the decoder for every item of every user as the target, in one pass.

        Item l is decoded from the items before it; its tokens are fed in the order of the codebooks in order_BLM.
        State t has consumed t tokens: states 0..M-1 predict tokens, states 1..M categories.
        """
        memory_BSD, number_S = self.encode(codes_BLM[:, :-1])
        return self.decode_on(memory_BSD, number_S, codes_BLM, order_BLM)

    def decode_on(self, memory_BSD: Tensor, number_S: Tensor, codes_BLM: Tensor, order_BLM: Tensor) -> Tensor:
        """`decode_targets` on an encoder output made before; order_BLM may name the first codebooks only."""
        batch, length, num_fed = order_BLM.shape
        fed = self.embed_tokens(codes_BLM.gather(2, order_BLM), order_BLM)
        x = torch.cat([self.begin.expand(batch, length, 1, -1), fed], dim=2) + self.steps[: num_fed + 1]
        x = self.dropout(self.norm_path(x))
        target_L = torch.arange(1, length + 1, device=codes_BLM.device)
        visible = (number_S < target_L[:, None]).repeat_interleave(num_fed + 1, dim=0)
        turn_S = self.rotary(number_S)
        turn = tuple(t[:, None] for t in self.rotary(target_L))
        for block in self._decoder_blocks():
            x, _ = block(x, None, block.memory(memory_BSD, turn_S), turn, visible)
        return x

    def token_logits(self, state: Tensor) -> Tensor:
        """Logits (..., M, K) of every codebook for states (..., D)."""
        return (state @ self.tokens_MKD.flatten(0, 1).T).unflatten(-1, self.tokens_MKD.shape[:2])

    def category_logits(self, state: Tensor) -> Tensor | None:
        """Logits (..., C) for states (..., D) that have consumed a token; None without categories."""
        return None if self.category_head is None else self.category_head(state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json` and `model.safetensors` into a folder."""
        folder = Path(folder)
        header = {"format": MODEL_FORMAT, "version": MODEL_VERSION, "config": asdict(self.config)}
        write_json(folder / "model.json", header)
        write_tensors(folder / "model.safetensors", self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Reg4RecModel":
        """The model saved in a folder, in evaluation mode on the CPU; InputError where the files do not fit."""
        folder = Path(folder)
        header: dict[str, Any] = read_header(folder / "model.json", MODEL_FORMAT, MODEL_VERSION)
        stored = read_tensors(folder / "model.safetensors")
        try:
            config = ModelConfig(**header["config"])
            _check_weights(config, stored)
            model = cls(config)
            model.load_state_dict(stored)
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
    for name in sorted(wanted.keys() | stored.keys()):
        shapes = [
            (tuple(t.shape), str(t.dtype)) if t is not None else None for t in (stored.get(name), wanted.get(name))
        ]
        if shapes[0] != shapes[1]:
            raise InputError(f"does not hold a whole model: {name} is {shapes[0]} where {shapes[1]} was expected")
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise InputError("the stored model has weights that are not finite; take an earlier checkpoint")
