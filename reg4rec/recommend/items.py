"""The live catalog: the items of a recommender, their tokens, and which of them may be recommended."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError
from reg4rec.search.ranking import bucket_ranks
from reg4rec.storage import check_file, read_tensors, write_tensors
from reg4rec.tokenizer import Tokenizer, TokenNames

__all__ = ["INDEX", "LiveItems"]

INDEX = "index.safetensors"
LARGE = 200_000
"""Catalog size from which index and vectors are saved too, so that loading maps them instead of computing them."""


@dataclass(frozen=True, eq=False)
class LiveItems:
    """An immutable value; a change of the catalog makes a new one, which shares the unchanged parts.

    codes_IM: the tokens, int64. popularity_I: number of interactions of each item in training. cosine_I: cosine of an
    item's vector and the vector of its tokens. rank_I: order of items that share all tokens, by both (`bucket_ranks`).
    removed_I: items that are never recommended; histories may contain them. known_index: `index`, if it is known
    already. unchecked: file and checksum of a stored index, compared when the index is first used.
    """

    items: ItemCatalog
    tokenizer: Tokenizer
    codes_IM: Tensor
    popularity_I: Tensor
    cosine_I: Tensor
    rank_I: Tensor
    removed_I: Tensor
    known_index: ops.TokenIndex | None = None
    unchecked: tuple[Path, str] | None = None

    @classmethod
    def of(
        cls,
        items: ItemCatalog,
        tokenizer: Tokenizer,
        popularity_I: npt.ArrayLike | None,
        device: torch.device,
        removed_X: Tensor | None = None,
        index: ops.TokenIndex | None = None,
        unchecked: tuple[Path, str] | None = None,
    ) -> "LiveItems":
        """The live catalog of these items; removed_X: rows of removed ones. InputError for a wrong `popularity_I`."""
        popularity = np.zeros(len(items)) if popularity_I is None else np.asarray(popularity_I)
        if popularity.shape != (len(items),):
            raise InputError(f"popularity_I has shape {popularity.shape}, expected ({len(items)},)")
        counts_I = torch.as_tensor(popularity, dtype=torch.int64, device=device)
        cosine_I = tokenizer.path_cosines().to(device)
        removed_I = torch.zeros(len(items), dtype=torch.bool, device=device)
        if removed_X is not None:
            removed_I[removed_X.to(device)] = True
        return cls(
            items,
            tokenizer,
            tokenizer.codes_IM.long().to(device),
            counts_I,
            cosine_I,
            bucket_ranks(cosine_I, counts_I),
            removed_I,
            None if index is None else ops.TokenIndex(*(part.to(device) for part in index)),
            unchecked,
        )

    @cached_property
    def index(self) -> ops.TokenIndex:
        """The tokens of the items that may be recommended."""
        if self.known_index is not None:
            if self.unchecked is not None:
                check_file(*self.unchecked)
            return self.known_index
        rows_T = (~self.removed_I).nonzero().squeeze(1)
        return ops.TokenIndex.build(self.codes_IM, self.tokenizer.config.codebook_size, rows_T)

    @cached_property
    def names(self) -> TokenNames:
        """The tokens' names, from the texts of all items."""
        return TokenNames(self.tokenizer, self.items)

    @property
    def are_many(self) -> bool:
        return len(self.items) >= LARGE

    @property
    def index_so_far(self) -> ops.TokenIndex | None:
        """`index` if it exists already, else None."""
        return self.index if "index" in self.__dict__ or self.known_index is not None else None

    @cached_property
    def allowed_words(self) -> Tensor | None:
        """The argument `allowed` of `reg4rec.ops.score_topk`; None if no item was removed."""
        return ops.allowed_words(~self.removed_I[None]) if bool(self.removed_I.any()) else None

    def only(self, rows: npt.NDArray[np.integer[Any]]) -> "LiveItems":
        """The catalog in which only these rows, except removed ones, may be recommended."""
        kept_I = torch.zeros_like(self.removed_I).index_fill_(0, self._on_device(rows), True)
        return replace(self, removed_I=self.removed_I | ~kept_I, known_index=None, unchecked=None)

    def without(self, rows: npt.NDArray[np.integer[Any]]) -> "LiveItems":
        """The catalog with these rows removed; none of them may be removed already."""
        row_T, index = self._on_device(rows), self.index_so_far
        known = None if index is None else index.without_items(row_T)
        return replace(self, removed_I=self.removed_I.index_fill(0, row_T, True), known_index=known, unchecked=None)

    def restored(self, rows: npt.NDArray[np.integer[Any]]) -> "LiveItems":
        """The catalog in which these rows, all removed now, may be recommended (again)."""
        row_T, index = self._on_device(rows), self.index_so_far
        known = None if index is None else index.with_items(self.codes_IM, row_T)
        return replace(self, removed_I=self.removed_I.index_fill(0, row_T, False), known_index=known, unchecked=None)

    def extended(self, new: ItemCatalog, vectors: Mapping[str, npt.ArrayLike]) -> "LiveItems":
        """The catalog with the items of `new` after the last one, marked as removed until `restored` is called."""
        first, more = len(self.items), (0, len(new))
        tokenizer = self.tokenizer.extended(new.table, vectors)
        cosine_I = torch.cat([self.cosine_I, tokenizer.path_cosines(first).to(self.cosine_I)])
        popularity_I = torch.nn.functional.pad(self.popularity_I, more)
        return LiveItems(
            self.items.extended(new),
            tokenizer,
            tokenizer.codes_IM.long().to(self.codes_IM.device),
            popularity_I,
            cosine_I,
            bucket_ranks(cosine_I, popularity_I),
            torch.nn.functional.pad(self.removed_I, more, value=True),
            self.index_so_far,
        )

    def save(self, folder: Path) -> None:
        """Write tokens, items, and the index of a large catalog into a folder."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.items.save(folder / "items.parquet")
        removed_X = self.removed_I.nonzero().squeeze(1)
        write_tensors(folder / "items.safetensors", {"popularity": self.popularity_I, "removed": removed_X})
        num_items, num_codebooks = len(self.items) - len(removed_X), self.codes_IM.shape[1]
        pays = ops.TokenIndex.pairs_pay(num_items, num_codebooks, self.tokenizer.config.codebook_size)
        # building a smaller index is faster than reading it
        if (pays or self.known_index is not None) and self.index.lists_pairs:
            write_tensors(folder / INDEX, self.index.stored())

    @classmethod
    def load(
        cls, folder: Path, category_level: int, device: torch.device, files: Mapping[str, str], verify: bool
    ) -> "LiveItems":
        """The catalog that `save` wrote; InputError if files are incomplete. files: checksum of each file by name."""
        try:
            stored = read_tensors(folder / "items.safetensors")
            popularity_I, removed_X = stored["popularity"], stored["removed"]
            if type(category_level) is not int or popularity_I.dtype != torch.int64:
                raise TypeError(f"category_level is {category_level!r}, popularity {popularity_I.dtype}")
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} does not contain a complete recommender: {error}") from None
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer", verify)
        num_items = min(len(popularity_I), tokenizer.num_items)
        if removed_X.dtype != torch.int64 or not bool(((removed_X >= 0) & (removed_X < num_items)).all()):
            raise InputError(f"{folder / 'items.safetensors'} removes rows that are not among {num_items} items")
        items = ItemCatalog.load(folder / "items.parquet", category_level)
        index = _stored_index(folder, tokenizer, removed_X) if INDEX in files else None
        unchecked = (folder / INDEX, files[INDEX]) if verify and INDEX in files else None
        return cls.of(items, tokenizer, popularity_I.numpy(), device, removed_X, index, unchecked)

    def _on_device(self, rows: npt.NDArray[np.integer[Any]]) -> Tensor:
        return torch.from_numpy(rows).long().to(self.removed_I.device)


def _stored_index(folder: Path, tokenizer: Tokenizer, removed_X: Tensor) -> ops.TokenIndex:
    """The stored index of the items that are not removed, mapped into memory; InputError if it does not fit."""
    num_items = tokenizer.num_items - len(removed_X.unique())
    try:
        stored = read_tensors(folder / INDEX)
        return ops.TokenIndex.restored(stored, tokenizer.codes_IM, tokenizer.config.codebook_size, num_items)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{folder / INDEX} is not the index of these items ({error}); save the recommender again"
        ) from None
