"""Measures of recommended lists beyond accuracy: coverage, popularity, novelty, diversity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reg4rec import distributed
from reg4rec.data import Dataset
from reg4rec.data.text_view import TextView, unit_rows

__all__ = ["ListMeasures", "item_vectors"]

DEPTH = 10
"""Popularity, novelty and diversity are measured on this number of items of a list."""
TEXT_COLUMNS, TEXT_DIM = ("title", "brand", "categories"), 128

Float64 = npt.NDArray[np.float64]


class ListMeasures:
    """Measures lists of items batch by batch; `values` are over all lists.

    `coverage@k`: fraction of the catalog that is in the first k items of any list. `overlap@10`: mean fraction of the
    first 10 items that two lists share, 0 for a single list. If `whole`, means over lists of their first 10 items:
    `popularity@10`, training interactions per item; `novelty@10`, -log2 of an item's share of the training
    interactions (plus one each), in bits; `category_diversity@10`, fraction of pairs in different categories, among
    items with a category; `vector_diversity@10`, one minus the mean cosine of pairs of `vectors_IV` (unit rows). For
    shorter lists, the names have their length instead of 10.
    """

    def __init__(
        self,
        dataset: Dataset,
        ks: Sequence[int],
        whole: bool = True,
        vectors_IV: npt.NDArray[np.float32] | None = None,
    ):
        self.ks, self.whole, self.vectors_IV = ks, whole, vectors_IV
        self.depth = min(DEPTH, max(ks))
        self.times_I, self.num_lists = np.zeros(dataset.num_items), 0
        self.reached_XI = np.zeros((len(ks), dataset.num_items), dtype=np.bool_)
        self.sums: dict[str, float] = {}
        if not whole:
            return
        self.count_I = dataset.item_counts("train").astype(np.float64)
        shares_I = (self.count_I + 1) / (self.count_I.sum() + dataset.num_items)
        self.surprise_I = -np.log2(shares_I)
        self.category_I = dataset.items.categories_I

    def add(self, ranked_BN: npt.NDArray[np.int32]) -> None:
        """Add lists (B, N) of item rows, -1 for no item."""
        for reached_I, k in zip(self.reached_XI, self.ks, strict=True):
            head_BN = ranked_BN[:, :k]
            reached_I[head_BN[head_BN >= 0]] = True
        head_BN = ranked_BN[:, : self.depth]
        filled_BN = head_BN >= 0
        self.times_I += np.bincount(head_BN[filled_BN], minlength=len(self.times_I))
        self.num_lists += len(head_BN)
        if not self.whole:
            return
        rows_BN, size_B = np.where(filled_BN, head_BN, 0), filled_BN.sum(1)
        for name, value_I in (("popularity", self.count_I), ("novelty", self.surprise_I)):
            self._add(name, _ratio((value_I[rows_BN] * filled_BN).sum(1), size_B))
        known_BN = filled_BN & (self.category_I[rows_BN] >= 0)
        category_BN = np.where(known_BN, self.category_I[rows_BN], -1)
        same_B = ((category_BN[:, :, None] == category_BN[:, None, :]) & known_BN[:, :, None]).sum((1, 2))
        self._add("category_diversity", _of_pairs(same_B.astype(np.float64), known_BN.sum(1)))
        if self.vectors_IV is not None:
            vectors_BNV = self.vectors_IV[rows_BN] * filled_BN[..., None]
            # an item without text has a zero row, whose cosine with itself is 0 too
            own_B = np.square(vectors_BNV, dtype=np.float64).sum((1, 2))
            all_B = np.square(vectors_BNV.sum(1, dtype=np.float64)).sum(1)
            self._add("vector_diversity", _of_pairs(all_B - own_B + size_B, size_B))

    def values(self) -> dict[str, float]:
        """All measures by name, over the lists of all processes."""
        reached_XI = distributed.total(torch.from_numpy(self.reached_XI.astype(np.int64))).numpy() > 0
        found = {f"coverage@{k}": float(reached_I.mean()) for k, reached_I in zip(self.ks, reached_XI, strict=True)}
        times_I = distributed.total(torch.from_numpy(self.times_I)).numpy()
        sums = distributed.summed({"": self.num_lists, **self.sums})
        pairs = max(1.0, (sums.pop("") - 1) * times_I.sum())
        found[f"overlap@{self.depth}"] = float((times_I * (times_I - 1)).sum() / pairs)
        names = [name for name in sums if not name.endswith(" lists")]
        return found | {f"{name}@{self.depth}": sums[name] / max(1.0, sums[f"{name} lists"]) for name in names}

    def _add(self, name: str, values_B: Float64) -> None:
        known_B = ~np.isnan(values_B)
        for key, value in ((name, values_B[known_B].sum()), (f"{name} lists", known_B.sum())):
            self.sums[key] = self.sums.get(key, 0.0) + float(value)


def item_vectors(dataset: Dataset) -> npt.NDArray[np.float32] | None:
    """Content vectors of the items, (I, V) unit rows: the dataset's first matrix, else TF-IDF of texts, else None."""
    if dataset.vectors:
        return unit_rows(next(iter(dataset.vectors.values())))
    texts = dataset.items.texts(TEXT_COLUMNS)
    view = TextView.fit(texts, TEXT_DIM, seed=0)
    return None if view is None else view.transform(texts)


def _ratio(part_B: npt.NDArray[Any], count_B: npt.NDArray[Any]) -> Float64:
    return np.where(count_B > 0, part_B / np.maximum(count_B, 1), np.nan)


def _of_pairs(alike_B: Float64, size_B: npt.NDArray[Any]) -> Float64:
    """One minus the mean similarity of pairs in lists of n items, from `alike_B`, the sum of their n x n similarities
    (1 on the diagonal); NaN for lists without a pair."""
    pairs_B = size_B * (size_B - 1)
    return 1 - _ratio(alike_B - size_B, pairs_B)
