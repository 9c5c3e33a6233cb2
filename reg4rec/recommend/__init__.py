"""From histories to recommendations: the recommender, its catalog, result tables and explanations."""

from reg4rec.recommend.explain import explain
from reg4rec.recommend.explanation import Explanation
from reg4rec.recommend.recommender import DType, Recommender
from reg4rec.recommend.table import Results, SearchResults

__all__ = ["DType", "Explanation", "Recommender", "Results", "SearchResults", "explain"]
