"""Recall and NDCG under a named protocol, with the card that says which one it was."""

from reg4rec.evaluation.metrics import ndcg_at, recall_at
from reg4rec.evaluation.popularity import Popularity
from reg4rec.evaluation.protocol import DetailedRanker, Ranker, RecordedRanks, evaluate
from reg4rec.evaluation.report import Report, ReportRow

__all__ = [
    "DetailedRanker",
    "Popularity",
    "Ranker",
    "RecordedRanks",
    "Report",
    "ReportRow",
    "evaluate",
    "ndcg_at",
    "recall_at",
]
