"""From histories to item rows: rank all items by their own score, or those that reasoning paths find (CRSS, CORP)."""

from reg4rec.search.beam import Paths, search, step_indexes
from reg4rec.search.config import RetrieverName, SearchConfig, SearchOrder
from reg4rec.search.ranking import Ranking
from reg4rec.search.reasons import Reasons

__all__ = [
    "Paths",
    "Ranking",
    "Reasons",
    "RetrieverName",
    "SearchConfig",
    "SearchOrder",
    "search",
    "step_indexes",
]
