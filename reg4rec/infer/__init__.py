"""From histories to items: CRSS, CORP, constrained search over unordered tokens, the recommender."""

from reg4rec.infer.ranking import Ranking
from reg4rec.infer.recommender import Recommender
from reg4rec.infer.search import Paths, SearchConfig, search
from reg4rec.infer.table import Results

__all__ = ["Paths", "Ranking", "Recommender", "Results", "SearchConfig", "search"]
