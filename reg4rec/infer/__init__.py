"""From histories to items: CRSS, CORP, constrained search over unordered tokens, the recommender."""

from reg4rec.infer.explain import Explanation, explain
from reg4rec.infer.ranking import Ranking
from reg4rec.infer.reasons import Reasons
from reg4rec.infer.recommender import DType, Recommender
from reg4rec.infer.search import Paths, RetrieverName, SearchConfig, SearchOrder, search, step_indexes
from reg4rec.infer.table import Results, SearchResults

__all__ = [
    "DType",
    "Explanation",
    "Paths",
    "Ranking",
    "Reasons",
    "Recommender",
    "Results",
    "RetrieverName",
    "SearchConfig",
    "SearchOrder",
    "SearchResults",
    "explain",
    "search",
    "step_indexes",
]
