"""Item views: one feature vector per item, from its texts, interactions and matrices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reg4rec.data.catalog import table_texts
from reg4rec.data.collaborative_view import collaborative_view
from reg4rec.data.dataset import Dataset
from reg4rec.data.matrices import check_matrix
from reg4rec.data.neighbors import neighbor_mean
from reg4rec.data.text_view import TextView, read_matrix_tensor, unit_rows
from reg4rec.errors import InputError
from reg4rec.settings import check_settings
from reg4rec.storage import new_header, read_header, write_header, write_tensors
from reg4rec.writing import atomic_folder

__all__ = ["ItemViews", "ViewConfig"]

FORMAT, VERSION = "reg4rec-views", 2

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ViewConfig:
    """The views in an item vector; a dimension of 0 leaves that view out.

    Leave "categories" out of `text_columns` to keep the category label out of the text.
    """

    text_dim: int = 128
    """dimensions of the text view (TF-IDF and SVD); 0 leaves it out"""
    collaborative_dim: int = 64
    """dimensions of the view from training interactions; 0 leaves it out"""
    text_columns: tuple[str, ...] = ("title", "brand", "categories")
    """columns of the items table that form the text"""
    matrices: tuple[str, ...] = ()
    """names of matrices of the dataset to use as further views"""

    def __post_init__(self) -> None:
        for name in ("text_dim", "collaborative_dim"):
            check_settings(self, (name, getattr(self, name) >= 0, "0 or more"))


@dataclass(frozen=True, eq=False)
class ItemViews:
    """Item vectors `vectors_IV`, and the fitted views that compute vectors of unseen items.

    The vectors concatenate the views, each with unit rows: text, collaborative, then the matrices in order. `widths`
    has the number of columns of each view, `card` the data of the fit and the views left out, with reasons.
    Paper: MPQ input, ours, D1
    """

    config: ViewConfig
    vectors_IV: Float32
    text: TextView | None
    widths: dict[str, int]
    card: dict[str, Any]

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        config: ViewConfig | None = None,
        part: Literal["train", "train+validation"] = "train",
        seed: int = 0,
    ) -> "ItemViews":
        """Fit the views of all items of a dataset; uses only interactions of `part`.

        Empty views are left out and named in the card. InputError if none is left or a matrix is not in the dataset.
        """
        config = config or ViewConfig()
        blocks, left_out = {}, {}
        texts = dataset.items.texts(config.text_columns)
        text = TextView.fit(texts, config.text_dim, seed) if config.text_dim > 0 else None
        if text is not None:
            blocks["text"] = text.transform(texts)
        elif config.text_dim > 0:
            left_out["text"] = f"no two items share a distinctive term in {list(config.text_columns)}"
        if config.collaborative_dim > 0:
            block = collaborative_view(dataset.part(part), dataset.num_items, config.collaborative_dim, seed)
            if block is not None:
                blocks["collaborative"] = block
            else:
                left_out["collaborative"] = f"no user has two different items in part {part}"
        for name in config.matrices:
            blocks[f"matrix:{name}"] = unit_rows(_matrix_of(dataset, name))
        if not blocks:
            raise InputError(f"all views are empty: {left_out or 'all are turned off'}; give texts or a matrix")
        card = {
            "dataset": dataset.card.get("fingerprint"),
            "items": dataset.num_items,
            "part": part,
            "seed": seed,
            "left_out": left_out,
        }
        widths = {name: block.shape[1] for name, block in blocks.items()}
        return cls(config, np.hstack(list(blocks.values())), text, widths, card)

    @property
    def dim(self) -> int:
        """Width V of an item vector."""
        return int(self.vectors_IV.shape[1])

    def transform(self, table: pa.Table, vectors: Mapping[str, npt.ArrayLike] | None = None) -> Float32:
        """(n, V): vectors of unseen items, one per row of `table`, without refitting.

        Their collaborative view is estimated from similar items (see `expected`). `vectors` has one (n, v) matrix for
        each matrix view; InputError if one is missing or has another width.
        """
        blocks = [self._block(name, width, table, vectors or {}) for name, width in self.widths.items()]
        vectors_BV = np.hstack(blocks)
        own_V = self._collaborative_V()
        vectors_BV[:, own_V] = unit_rows(self.expected(vectors_BV, self.vectors_IV[:, own_V]))
        return vectors_BV

    def expected(self, vectors_BV: Float32, values_IT: Float32) -> Float32:
        """(B, T): estimates, for vectors of unseen items, of values that training gave to the fitted items.

        A weighted mean over the fitted items that are nearest in all views but the collaborative one; items without a
        collaborative view were not in training and are ignored, as are rows of values_IT for items added later.
        Ours: docs/results.md.
        """
        own_V, fitted_IV = self._collaborative_V(), self.vectors_IV[: self.card.get("items")]
        met_X = np.flatnonzero(fitted_IV[:, own_V].any(axis=1) | ~own_V.any())
        return neighbor_mean(vectors_BV[:, ~own_V], fitted_IV[met_X][:, ~own_V], values_IT[met_X])

    def _collaborative_V(self) -> npt.NDArray[np.bool_]:  # noqa: N802
        return np.repeat([name == "collaborative" for name in self.widths], list(self.widths.values()))

    def _block(self, name: str, width: int, table: pa.Table, vectors: Mapping[str, npt.ArrayLike]) -> Float32:
        if name == "text" and self.text is not None:
            return self.text.transform(table_texts(table, self.config.text_columns))
        if name == "collaborative":
            return np.zeros((table.num_rows, width), dtype=np.float32)
        key = name.removeprefix("matrix:")
        if key not in vectors:
            raise InputError(
                f"these views use matrix {key!r}; give its rows for the new items, found {sorted(vectors)}"
            )
        matrix = check_matrix(key, vectors[key], table.num_rows)
        if matrix.shape[1] != width:
            raise InputError(f"matrix {key!r} has {matrix.shape[1]} columns where {width} were fitted")
        return unit_rows(matrix)

    def save(self, folder: str | Path) -> None:
        """Write the folder, replacing an earlier one."""
        with atomic_folder(folder, "views.json", ["vocabulary.parquet", "text.safetensors"]) as fresh:
            write_tensors(fresh / "vectors.safetensors", {"vectors": self.vectors_IV})
            if self.text is not None:
                self.text.save(fresh)
            body = {"config": asdict(self.config), "widths": self.widths, "card": self.card}
            files = [file.name for file in fresh.iterdir()]
            write_header(fresh / "views.json", new_header(FORMAT, VERSION) | body, files)

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> "ItemViews":
        """The views that `save` wrote; `verify=False` skips the checksums."""
        folder = Path(folder)
        config, widths, card = _parse(folder, read_header(folder / "views.json", FORMAT, VERSION, verify=verify))
        text = TextView.load(folder) if "text" in widths else None
        vectors_IV = read_matrix_tensor(folder / "vectors.safetensors", "vectors")
        if vectors_IV.shape[1] != sum(widths.values()) or (text is not None and text.dim != widths["text"]):
            raise InputError(
                f"{folder} has vectors of width {vectors_IV.shape[1]} where its views are {widths}; write it again"
            )
        return cls(config, vectors_IV, text, widths, card)


def _parse(folder: Path, header: dict[str, Any]) -> tuple[ViewConfig, dict[str, int], dict[str, Any]]:
    """Configuration, widths and card from a header; InputError if one has the wrong type."""
    stored, widths, card = (header.get(name) for name in ("config", "widths", "card"))
    try:
        parts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}  # type: ignore[union-attr]
        config = ViewConfig(**parts)
        names = (*config.text_columns, *config.matrices)
        fitted = card.get("items", 0)  # type: ignore[union-attr]
        sizes = (config.text_dim, config.collaborative_dim, fitted, *widths.values())  # type: ignore[union-attr]
        known = {"text", "collaborative", *(f"matrix:{name}" for name in config.matrices)}
        whole = all(type(size) is int and size >= 0 for size in sizes) and all(isinstance(name, str) for name in names)
        if not whole or not isinstance(card, dict) or not widths.keys() <= known:  # type: ignore[union-attr]
            raise TypeError("a value has the wrong type")
    except (TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'views.json'} is incomplete or damaged: {error}; fit the views again") from None
    return config, dict(widths or {}), card


def _matrix_of(dataset: Dataset, name: str) -> Float32:
    if name not in dataset.vectors:
        raise InputError(f"the dataset has no matrix {name!r}; it has {sorted(dataset.vectors) or 'none'}")
    return dataset.vectors[name]
