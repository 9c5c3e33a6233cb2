"""The text view: TF-IDF of item texts, reduced by a truncated SVD."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reg4rec.data.parquet import read_parquet, write_parquet
from reg4rec.errors import InputError
from reg4rec.storage import read_tensors, write_tensors

__all__ = ["TextView", "unit_rows"]

Float32 = npt.NDArray[np.float32]
# a term of one item relates no items; a term of most items (the root category) distinguishes none
TFIDF: dict[str, Any] = {"sublinear_tf": True, "min_df": 2, "max_df": 0.5, "dtype": np.float32}


def unit_rows(matrix: npt.NDArray[Any]) -> Float32:
    """Rows of length 1, float32; a zero row stays zero."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.ascontiguousarray(matrix / np.where(norms > 0, norms, 1), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class TextView:
    """Maps a text to a unit vector: `terms` (T) and their `idf_T`, then a projection `components_VT`."""

    terms: list[str]
    idf_T: Float32
    components_VT: Float32

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int, seed: int) -> "TextView | None":
        """The view of the texts with at most `dim` dimensions; None if fewer than two terms are in 2 texts or more."""
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(**TFIDF)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError:  # scikit-learn's error for an empty vocabulary
            return None
        if counts.shape[1] < 2:  # scikit-learn cannot decompose one column
            return None
        svd = TruncatedSVD(min(dim, *counts.shape), random_state=seed).fit(counts)
        terms = vectorizer.get_feature_names_out().tolist()
        return cls(terms, vectorizer.idf_.astype(np.float32), svd.components_.astype(np.float32))

    @property
    def dim(self) -> int:
        return len(self.components_VT)

    def transform(self, texts: Sequence[str]) -> Float32:
        """(n, V) unit rows; a text without a known term gives zeros."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not len(texts):
            return np.empty((0, self.dim), dtype=np.float32)
        vectorizer = TfidfVectorizer(**TFIDF, vocabulary={term: t for t, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf_T
        return unit_rows(vectorizer.transform(texts) @ self.components_VT.T)

    def save(self, folder: Path) -> None:
        """Write `vocabulary.parquet` and `text.safetensors` into an existing folder."""
        vocabulary = pa.table({"term": pa.array(self.terms, pa.string()), "idf": self.idf_T})
        write_parquet(folder / "vocabulary.parquet", vocabulary)
        write_tensors(folder / "text.safetensors", {"components": self.components_VT})

    @classmethod
    def load(cls, folder: Path) -> "TextView":
        """The view that `save` wrote."""
        table = read_parquet(folder / "vocabulary.parquet", columns=("term", "idf"))
        components_VT = read_matrix_tensor(folder / "text.safetensors", "components")
        terms, idf = table["term"], table["idf"]
        known = pa.types.is_string(terms.type) and idf.type == pa.float32() and not terms.null_count + idf.null_count
        if not known or components_VT.shape[1] != table.num_rows or len(pc.unique(terms)) < len(terms):
            raise InputError(f"{folder} has a vocabulary and a projection that do not match; write it again")
        return cls(terms.to_pylist(), idf.to_numpy(), components_VT)


def read_matrix_tensor(path: Path, name: str) -> Float32:
    """The only tensor of a safetensors file, a finite float32 matrix called `name`; InputError for anything else."""
    tensors = read_tensors(path)
    found = {key: (str(tensor.dtype), tuple(tensor.shape)) for key, tensor in tensors.items()}
    if list(tensors) != [name] or str(tensors[name].dtype) != "torch.float32" or tensors[name].dim() != 2:
        raise InputError(f"{path} has {found} where one float32 matrix {name!r} was expected; write it again")
    if not bool(tensors[name].isfinite().all()):
        raise InputError(f"{path} has values that are not finite; write it again")
    return np.asarray(tensors[name].numpy())
