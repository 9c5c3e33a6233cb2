"""From histories to rows of items: every item by its own score, or those that reasoning paths lead to (CRSS, CORP)."""

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
