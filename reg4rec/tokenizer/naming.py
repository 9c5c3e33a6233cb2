"""Names of tokens: words that are more frequent in the texts of their items, and their nearest items."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reg4rec.data import ItemCatalog
from reg4rec.tokenizer.codebooks import squared_distances
from reg4rec.tokenizer.tokenizer import Tokenizer

__all__ = ["TokenNames"]

WORD = r"(?u)\b[^\W\d_]\w{2,}\b"
"""At least three characters, the first a letter; plain numbers would not help a reader."""


class TokenNames:
    """Names for the tokens of a catalog, from the text columns that the tokenizer reads.

    A token is named by the words most associated with it (log-likelihood ratio of the two-by-two table of items;
    Dunning 1993), among words that are more frequent in its items than in others and occur in at least two and a tenth
    of them. English stop words and words of more than half of all items are excluded. Ties go in alphabetical order.
    """

    def __init__(self, tokenizer: Tokenizer, items: ItemCatalog):
        from sklearn.feature_extraction.text import CountVectorizer

        self.tokenizer = tokenizer
        self.known: dict[tuple[str, int, int, int], list[Any]] = {}
        self.codes_IM = tokenizer.codes_IM.numpy()
        vectorizer = CountVectorizer(
            binary=True, stop_words="english", token_pattern=WORD, min_df=2, max_df=0.5, dtype=np.int32
        )
        columns = [name for name in tokenizer.views.config.text_columns if name in items.table.column_names]
        try:
            self.present_IT = vectorizer.fit_transform(items.texts(columns)).tocsr()
            self.words = vectorizer.get_feature_names_out().tolist()
            self.items_T = np.asarray(self.present_IT.sum(0)).ravel()
        except ValueError:  # scikit-learn's error for an empty vocabulary
            self.words = []

    def words_of(self, codebook: int, code: int, count: int = 3) -> list[str]:
        """At most `count` words that name the token, best first; empty if none does. Computed once for each token."""
        return self._once(self._words_of, codebook, code, count)

    def nearest_items(self, codebook: int, code: int, count: int = 3) -> list[int]:
        """Item rows of the token's items that are nearest to its codeword, at most `count`; computed once."""
        return self._once(self._nearest_items, codebook, code, count)

    def _once(self, compute: Callable[[int, int, int], list[Any]], codebook: int, code: int, count: int) -> list[Any]:
        key = (compute.__name__, codebook, code, count)
        if key not in self.known:
            self.known[key] = compute(codebook, code, count)
        return self.known[key]

    def _words_of(self, codebook: int, code: int, count: int) -> list[str]:
        rows = np.flatnonzero(self.codes_IM[:, codebook] == code)
        if not (self.words and len(rows)):
            return []
        with_T = np.asarray(self.present_IT[rows].sum(0)).ravel()
        ratio_T = _log_likelihood_ratio(with_T, self.items_T, len(rows), len(self.codes_IM))
        ratio_T[with_T < max(2, len(rows) / 10)] = 0
        best = np.argsort(-ratio_T, kind="stable")[:count]
        return [self.words[t] for t in best if ratio_T[t] > 0]

    @torch.no_grad()
    def _nearest_items(self, codebook: int, code: int, count: int) -> list[int]:
        rows = np.flatnonzero(self.codes_IM[:, codebook] == code)
        quantizer = self.tokenizer.quantizer
        if codebook >= len(quantizer.codebooks_MKE):  # a collision token numbers items and has no codeword
            return [int(row) for row in rows[:count]]
        ids_XM = torch.from_numpy(self.codes_IM[rows, : len(quantizer.codebooks_MKE)]).long()
        vectors_XV = torch.from_numpy(self.tokenizer.views.vectors_IV[rows])
        latents_XME = quantizer.latents_given(vectors_XV, ids_XM)
        distance_X = squared_distances(latents_XME, quantizer.codebooks_MKE, ids_XM)[:, codebook]
        return [int(row) for row in rows[np.argsort(distance_X.numpy(), kind="stable")[:count]]]


def _log_likelihood_ratio(
    with_T: npt.NDArray[np.int32], items_T: npt.NDArray[np.int32], carriers: int, num_items: int
) -> npt.NDArray[np.float64]:
    """G-squared of words and a token that `carriers` items have; 0 for words that are not more frequent in them."""
    table = (
        (with_T, carriers, items_T),
        (carriers - with_T, carriers, num_items - items_T),
        (items_T - with_T, num_items - carriers, items_T),
        (num_items - carriers - items_T + with_T, num_items - carriers, num_items - items_T),
    )
    ratio_T = np.zeros(len(with_T))
    for seen_T, row, column_T in table:
        expected_T = row * np.asarray(column_T, dtype=np.float64) / num_items
        ratio_T += np.where(seen_T > 0, seen_T * np.log(np.maximum(seen_T, 1) / np.maximum(expected_T, 1e-300)), 0.0)
    return np.where(with_T * num_items > carriers * items_T.astype(np.int64), 2 * ratio_T, 0.0)
