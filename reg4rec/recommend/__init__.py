"""From histories to recommendations: the recommender, its changing catalog, tables of results, explanations."""

from reg4rec.recommend.explain import Explanation, explain
from reg4rec.recommend.recommender import DType, Recommender
from reg4rec.recommend.table import Results, SearchResults

__all__ = ["DType", "Explanation", "Recommender", "Results", "SearchResults", "explain"]
