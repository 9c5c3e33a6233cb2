"""A fitted tokenizer: the tokens of all items, and the encoder for new ones."""

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from reg4rec.data import Dataset, ItemCatalog, ItemViews, ViewConfig
from reg4rec.data.fingerprint import fingerprint
from reg4rec.errors import InputError
from reg4rec.storage import (
    new_header,
    read_header,
    read_json,
    read_tensors,
    tensor_difference,
    weights_wanted,
    write_header,
    write_json,
    write_tensors,
)
from reg4rec.tokenizer.config import TokenizerConfig
from reg4rec.tokenizer.given import GivenCodes
from reg4rec.tokenizer.health import Health, with_neighbors
from reg4rec.tokenizer.kinds import build_quantizer
from reg4rec.tokenizer.quantizer import Quantizer
from reg4rec.tokenizer.stage import encode_all, health_of
from reg4rec.tokenizer.verdict import health_warnings
from reg4rec.writing import atomic_folder

__all__ = ["Tokenizer"]

FORMAT, VERSION = "reg4rec-tokenizer", 2
MOST_CODES_PER_ITEM = 4
"""Larger codebooks of given codes are a mistake: ids in place of codes."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Tokens `codes_IM` (int32; row = item row) and `quantized_IE`, the gated sum of each item's codewords.

    With `config.collision_token` the last column of `codes_IM` is the collision token. `card` has the data of the fit
    (dataset fingerprint, part, seed). All tensors are on the CPU.
    Paper: MPQ, stated
    """

    config: TokenizerConfig
    quantizer: Quantizer
    views: ItemViews
    codes_IM: Tensor
    quantized_IE: Tensor
    health: Health
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def from_codes(
        cls,
        codes_IM: npt.ArrayLike,
        dataset: Dataset,
        codebook_size: int | None = None,
        *,
        views: ViewConfig | None = None,
        recipe: str = "default",
    ) -> "Tokenizer":
        """A tokenizer with codes from elsewhere: whole numbers, one row per item of `dataset`, one column per codebook.

        `codebook_size`: K, the largest code plus one if None. Items may share all codes. New items take, in each
        codebook, the code whose items are nearest on average in the item vectors that `views` describes. `recipe`: of
        the models that will be trained on the codes. InputError for codes of another shape or range.
        """
        codes_IM = np.asarray(codes_IM)
        if codes_IM.ndim != 2 or len(codes_IM) != dataset.num_items or not codes_IM.shape[1]:
            raise InputError(
                f"codes must have a row for each of the {dataset.num_items} items and a column for each codebook; "
                f"found shape {codes_IM.shape}"
            )
        if not np.issubdtype(codes_IM.dtype, np.integer):
            raise InputError(f"codes must be whole numbers; found {codes_IM.dtype}")
        size = int(codes_IM.max()) + 1 if codebook_size is None else codebook_size
        if codes_IM.min() < 0 or codes_IM.max() >= size:
            raise InputError(f"codes must lie in 0..{size - 1}; found {codes_IM.min()}..{codes_IM.max()}")
        if size > MOST_CODES_PER_ITEM * dataset.num_items:
            raise InputError(
                f"codebook_size is {size:,} for {dataset.num_items:,} items; number the codes of each column from 0"
            )
        config = TokenizerConfig(
            kind="given",
            num_codebooks=codes_IM.shape[1],
            codebook_size=size,
            separate_collisions=False,
            views=views or ViewConfig(),
            recipe=recipe,
        )
        fitted = ItemViews.fit(dataset, config.views)
        vectors_IV, ids_IM = torch.from_numpy(fitted.vectors_IV), torch.from_numpy(codes_IM.astype(np.int64))
        quantizer = GivenCodes(fitted.dim, config.num_codebooks, config.codebook_size)
        quantizer.learn(vectors_IV, ids_IM)
        health = with_neighbors(health_of(quantizer, vectors_IV, ids_IM), codes_IM, dataset.part("train"))
        mixed_IE = quantizer.mix(ids_IM, vectors_IV)
        card = {"dataset": dataset.card.get("fingerprint"), "part": "train", "seed": 0}
        return cls(config, quantizer.eval(), fitted, ids_IM.to(torch.int32), mixed_IE, health, card)

    def __repr__(self) -> str:
        c = self.config
        return f"Tokenizer({c.kind}: {self.num_items:,} items, {c.tokens_per_item} tokens each of {c.codebook_size})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.describe())}</pre>"

    @property
    def num_items(self) -> int:
        return len(self.codes_IM)

    def catalog_fingerprint(self, items: ItemCatalog) -> str:
        """The sha256 of the item ids (in order) and the tokens; a model fits only the catalog it was trained for."""
        return fingerprint({"item_id": items.ids}, {"codes": self.codes_IM.numpy()}, {})

    def encode(self, vectors_BV: Tensor | npt.ArrayLike) -> Tensor:
        """codes_BM (int32): the nearest codewords of item vectors, without a collision token.

        Items of the catalog can have other codewords in `codes_IM` (`separate_collisions`). InputError for a wrong
        width or values that are not finite.
        """
        vectors_BV = torch.as_tensor(np.asarray(vectors_BV), dtype=torch.float32)
        if vectors_BV.dim() != 2 or vectors_BV.shape[1] != self.views.dim:
            raise InputError(f"item vectors must be (n, {self.views.dim}); found {tuple(vectors_BV.shape)}")
        if not bool(vectors_BV.isfinite().all()):
            raise InputError("item vectors contain values that are not finite; remove or replace them")
        return encode_all(self.quantizer, vectors_BV).to(torch.int32)

    def encode_items(self, table: pa.Table, vectors: Mapping[str, npt.ArrayLike] | None = None) -> Tensor:
        """codes_BM (int32) of unseen items, one row per row of `table`, which needs the text columns of the views.

        `vectors` has the rows of each matrix view; the collaborative view is estimated (`ItemViews.transform`).
        """
        return self.encode(self.views.transform(table, vectors))

    @torch.no_grad()
    def extended(self, table: pa.Table, vectors: Mapping[str, npt.ArrayLike] | None = None) -> "Tokenizer":
        """This tokenizer with unseen items (see `encode_items`) appended; its own tokens do not change.

        `health` and `card` stay those of the fit. InputError for a tokenizer with a collision token, which only items
        of the fit have.
        """
        if self.config.collision_token:
            raise InputError("a tokenizer with a collision token cannot take new items; fit one without it")
        vectors_TV = self.views.transform(table, vectors)
        codes_TM = self.encode(vectors_TV)
        mixed_TE = self.quantizer.mix(codes_TM.long(), torch.from_numpy(vectors_TV))
        views = replace(self.views, vectors_IV=np.vstack([self.views.vectors_IV, vectors_TV]))
        codes_IM, quantized_IE = torch.cat([self.codes_IM, codes_TM]), torch.cat([self.quantized_IE, mixed_TE])
        return replace(self, views=views, codes_IM=codes_IM, quantized_IE=quantized_IE)

    def path_cosines(self, first: int = 0) -> Tensor:
        """The cosine of an item's gated sum and the plain sum of its codewords, which its bucket shares (D3).

        For items from row `first` on.
        """
        ids_IM = self.codes_IM[first:, : self.config.num_codebooks].long()
        mixed_IE = self.quantized_IE[first:]
        return torch.cosine_similarity(self.quantizer.select(ids_IM).detach().sum(1), mixed_IE, dim=-1)

    def describe(self) -> str:
        """A summary in a few lines: sizes, health, warnings."""
        h, c = self.health, self.config
        extra = ", and a collision token" if c.collision_token else ""
        lines = [
            f"{h.num_items} items, {c.num_codebooks} tokens each of {c.codebook_size} codewords{extra}",
            f"usage        {_listed(h.usage, '.1%')} of {h.attainable} codewords",
            f"perplexity   {_listed(h.perplexity, '.0f')}",
            f"collisions   {h.collision_rate:.2%} of items share all tokens "
            f"({h.collision_rate_nearest:.2%} before {h.moved_rate:.2%} were moved), largest bucket "
            f"{max(map(int, h.buckets))}",
            f"similarity   {h.max_similarity:.3f} (independent codebooks have 0, copies 1)",
            f"rebuilt      cosine {h.cosine:.3f}, relative error {h.relative_error:.3f}",
        ]
        if c.kind == "mpq":
            lines.insert(-1, f"gate         {_listed(h.gate_mean, '.2f')}")
        if h.shared_by_neighbors is not None:
            lines.append(
                f"neighbors    share {h.shared_by_neighbors:.2f} tokens with the next item of a history "
                f"({h.shared_by_chance:.2f} by chance)"
            )
        return "\n".join(lines + [f"warning: {text}" for text in health_warnings(h)])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer folder, replacing an earlier one."""
        with atomic_folder(folder, "tokenizer.json", ["*.safetensors"]) as fresh:
            write_json(fresh / "health.json", asdict(self.health) | {"warnings": health_warnings(self.health)})
            write_tensors(fresh / "tokens.safetensors", {"codes_IM": self.codes_IM, "quantized_IE": self.quantized_IE})
            write_tensors(fresh / f"{self.config.kind}.safetensors", self.quantizer.state_dict())
            self.views.save(fresh / "views")
            header = new_header(FORMAT, VERSION, vector_dim=self.views.dim, num_items=self.num_items)
            header |= {"config": asdict(self.config), "card": self.card}
            files = ["health.json", "tokens.safetensors", f"{self.config.kind}.safetensors", "views/views.json"]
            write_header(fresh / "tokenizer.json", header, files)

    @classmethod
    def from_pretrained(cls, folder: str | Path, verify: bool = True) -> "Tokenizer":
        """The tokenizer that `save_pretrained` wrote; InputError for files that are damaged or do not fit together.

        `verify=False` skips the checksums.
        """
        folder = Path(folder)
        header = read_header(folder / "tokenizer.json", FORMAT, VERSION, verify=verify)
        config, health, shape, card = _parse(folder, header)
        quantizer = _read_quantizer(folder / f"{config.kind}.safetensors", config, shape[1])
        width = quantizer.codebooks_MKE.shape[2]
        codes_IM, quantized_IE = _read_tokens(folder / "tokens.safetensors", shape[0], config, width)
        views = ItemViews.load(folder / "views", verify)
        if views.vectors_IV.shape != shape:
            raise InputError(
                f"{folder / 'views'} has vectors of shape {views.vectors_IV.shape} where {shape} was expected; "
                "write the tokenizer folder again"
            )
        return cls(config, quantizer, views, codes_IM, quantized_IE, health, card)


def _parse(folder: Path, header: dict[str, Any]) -> tuple[TokenizerConfig, Health, tuple[int, int], dict[str, Any]]:
    """The settings, the health, the shape (I, V) of the item vectors, and the card."""
    stored = read_json(folder / "health.json")
    try:
        health = Health(**{name: value for name, value in stored.items() if name != "warnings"})
        shape = int(header["num_items"]), int(header["vector_dim"])
        return TokenizerConfig.from_json(header["config"]), health, shape, dict(header["card"])
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder} has an incomplete tokenizer.json or health.json: {error!r}") from None


def _read_quantizer(path: Path, config: TokenizerConfig, vector_dim: int) -> Quantizer:
    """The stored quantizer; allocates memory only after the shapes of the stored tensors match the configuration."""
    stored = read_tensors(path)
    try:
        wanted = weights_wanted(lambda: build_quantizer(config, vector_dim))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path.parent / 'tokenizer.json'} has impossible codebook sizes: {error}") from None
    if (difference := tensor_difference(stored, wanted)) is not None:
        raise InputError(f"{path}: {difference}; write the tokenizer folder again")
    if not all(bool(t.isfinite().all()) for t in stored.values()):
        raise InputError(f"{path} has weights that are not finite; write the tokenizer folder again")
    quantizer = build_quantizer(config, vector_dim)
    quantizer.load_state_dict(stored)
    return quantizer


def _read_tokens(path: Path, num_items: int, config: TokenizerConfig, width: int) -> tuple[Tensor, Tensor]:
    stored = read_tensors(path)
    expected = {
        "codes_IM": ((num_items, config.tokens_per_item), torch.int32),
        "quantized_IE": ((num_items, width), torch.float32),
    }
    found = {name: (tuple(t.shape), t.dtype) for name, t in stored.items()}
    if found != expected:
        raise InputError(f"{path} has {found} where {expected} were expected; write the tokenizer folder again")
    codes_IM = stored["codes_IM"]
    if len(codes_IM) and (int(codes_IM.min()) < 0 or int(codes_IM.max()) >= config.codebook_size):
        raise InputError(f"{path} has tokens outside 0 to {config.codebook_size - 1}; write the folder again")
    return codes_IM, stored["quantized_IE"]


def _listed(values: list[float], form: str) -> str:
    return " ".join(format(v, form) for v in values)
