"""Health of tokens: usage, collisions, independence of codebooks, reconstruction."""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from reg4rec.data import Sequences

__all__ = [
    "Health",
    "bucket_sizes",
    "measure_health",
    "normalized_mutual_information",
    "perplexities",
    "shared_tokens",
    "similarities",
    "usage",
    "with_neighbors",
]

_SAMPLE = 200_000
"""number of items from which pairwise mutual information is estimated"""

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Health:
    """The content of `health.json`. Lists have one entry per codebook."""

    num_items: int
    codebook_size: int
    attainable: int
    """number of codewords of a codebook that can be in use: at most the number of different item vectors"""
    usage: list[float]
    """fraction of the attainable codewords in use"""
    perplexity: list[float]
    """exp of the entropy of the tokens: the equivalent number of equally used codewords"""
    collision_rate: float
    """fraction of items that share all tokens with another item"""
    collision_rate_nearest: float
    """the same with the nearest codewords of every item"""
    collision_rate_identical: float
    """fraction of items whose vector equals another item's; these collide under any tokenizer"""
    moved_rate: float
    """fraction of items with a codeword other than the nearest, to avoid a collision"""
    buckets: dict[str, int]
    """for each bucket size, the number of buckets of that size"""
    similarity: list[list[float]]
    """(M, M) chance-corrected normalized mutual information of codebooks: 0 independent, 1 copies"""
    gate_mean: list[float]
    """mean gate weight of each expert"""
    relative_error: float
    """squared reconstruction error, relative to the squared deviation of the vectors from their mean"""
    rebuilt_spread: float
    """squared deviation of the reconstructions from their mean, relative to that of the vectors"""
    cosine: float
    """mean cosine similarity of vectors and their reconstructions"""
    shared_by_neighbors: float | None = None
    """mean number of tokens shared by consecutive items in training histories; None without such pairs"""
    shared_by_chance: float | None = None
    """the same with the second items shuffled"""

    @property
    def max_similarity(self) -> float:
        """The largest similarity of two codebooks; 0 for a single codebook."""
        return max((self.similarity[a][b] for a, b in combinations(range(len(self.usage)), 2)), default=0.0)


def measure_health(
    codes_IM: Integers,
    nearest_IM: Integers,
    vectors_IV: Floats,
    rebuilt_IV: Floats,
    gate_mean_M: Floats,
    codebook_size: int,
) -> Health:
    """The health of `codes_IM`, given the nearest codewords, the vectors and their reconstructions."""
    alike_I = bucket_sizes(vectors_IV)
    attainable = min(codebook_size, round(float((1 / alike_I).sum())))
    sizes_I = bucket_sizes(codes_IM)
    sizes, items = np.unique(sizes_I, return_counts=True)
    return Health(
        num_items=len(codes_IM),
        codebook_size=codebook_size,
        attainable=attainable,
        usage=usage(codes_IM, attainable),
        perplexity=perplexities(codes_IM),
        collision_rate=float((sizes_I > 1).mean()),
        collision_rate_nearest=float((bucket_sizes(nearest_IM) > 1).mean()),
        collision_rate_identical=float((alike_I > 1).mean()),
        moved_rate=float((codes_IM != nearest_IM).any(1).mean()),
        buckets={str(size): int(n // size) for size, n in zip(sizes, items, strict=True)},
        similarity=similarities(codes_IM),
        gate_mean=[float(x) for x in gate_mean_M],
        relative_error=relative_error(vectors_IV, rebuilt_IV),
        rebuilt_spread=spread(rebuilt_IV) / max(spread(vectors_IV), 1e-30),
        cosine=mean_cosine(vectors_IV, rebuilt_IV),
    )


def usage(codes_IM: Integers, attainable: int) -> list[float]:
    """The fraction of the attainable codewords that occur, per codebook."""
    return [len(np.unique(column)) / attainable for column in codes_IM.T]


def perplexities(codes_IM: Integers) -> list[float]:
    """exp of the entropy of the tokens, per codebook."""
    return [float(np.exp(_entropy(column))) for column in codes_IM.T]


def similarities(codes_IM: Integers) -> list[list[float]]:
    """(M, M) normalized mutual information of the codebooks, corrected for chance; 1 on the diagonal.

    With few items per codeword even independent codebooks share information by chance: about 0.4 for I / K = 47. The
    result is (nmi - chance) / (1 - chance), at least 0, where chance is the value after shuffling the items.
    """
    step = max(1, len(codes_IM) // _SAMPLE)
    columns = codes_IM[::step].T
    shuffle = np.random.default_rng(0).permutation(columns.shape[1])
    table = np.eye(len(columns))
    for a, b in combinations(range(len(columns)), 2):
        chance = normalized_mutual_information(columns[a], columns[b][shuffle])
        found = normalized_mutual_information(columns[a], columns[b])
        table[a, b] = table[b, a] = max(0.0, (found - chance) / (1 - chance)) if chance < 1 else 0.0
    return [[float(x) for x in row] for row in table]


def normalized_mutual_information(a_I: Integers, b_I: Integers) -> float:
    """Mutual information divided by the mean of the two entropies, 0 to 1; 0 if both are constant."""
    entropy_a, entropy_b = _entropy(a_I), _entropy(b_I)
    joint = _entropy(a_I.astype(np.int64) * (int(b_I.max(initial=0)) + 1) + b_I)
    total = entropy_a + entropy_b
    return 2 * max(0.0, total - joint) / total if total > 0 else 0.0


def shared_tokens(codes_IM: Integers, train: Sequences) -> tuple[float | None, float | None]:
    """The mean number of tokens shared by consecutive items of a history, and by the same items in random pairs."""
    owners = train.owners()
    together = owners[:-1] == owners[1:]
    left, right = codes_IM[train.items[:-1][together]], codes_IM[train.items[1:][together]]
    if not len(left):
        return None, None
    shuffled = right[np.random.default_rng(0).permutation(len(right))]
    return float((left == right).sum(1).mean()), float((left == shuffled).sum(1).mean())


def with_neighbors(health: Health, codes_IM: Integers, train: Sequences) -> Health:
    """The health with the tokens that neighbors in training histories share (see `shared_tokens`)."""
    by_neighbors, by_chance = shared_tokens(codes_IM, train)
    return replace(health, shared_by_neighbors=by_neighbors, shared_by_chance=by_chance)


def relative_error(vectors_IV: Floats, rebuilt_IV: Floats) -> float:
    """Squared error, relative to the squared deviation from the mean vector: 0 is exact, 1 is as bad as the mean."""
    return float(np.square(vectors_IV - rebuilt_IV).sum()) / max(spread(vectors_IV), 1e-30)


def spread(vectors_IV: Floats) -> float:
    """The sum of the squared deviations from the mean vector."""
    return float(np.square(vectors_IV - vectors_IV.mean(0)).sum())


def mean_cosine(a_IV: Floats, b_IV: Floats) -> float:
    """The mean cosine similarity of corresponding rows, 0 for zero rows."""
    lengths = np.linalg.norm(a_IV, axis=1) * np.linalg.norm(b_IV, axis=1)
    return float(((a_IV * b_IV).sum(1) / np.where(lengths > 0, lengths, 1)).mean())


def _entropy(values: Integers) -> float:
    counts = np.unique(values, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def bucket_sizes(rows_IX: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """sizes_I: for each row, the number of rows that equal it bit by bit, itself included."""
    whole_I = np.ascontiguousarray(rows_IX).view(np.dtype((np.void, rows_IX.itemsize * rows_IX.shape[1]))).ravel()
    _, inverse_I, counts = np.unique(whole_I, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse_I], dtype=np.int64)
