"""Evaluation of rankers by Recall, NDCG and MRR under a named protocol, which the report records."""

from reg4rec.evaluation.metrics import gains, hit_ranks, rank_metrics
from reg4rec.evaluation.popularity import Popularity
from reg4rec.evaluation.protocol import DetailedRanker, ProtocolName, Ranker, check_targets, evaluate
from reg4rec.evaluation.report import Report, ReportRow

__all__ = [
    "DetailedRanker",
    "Popularity",
    "ProtocolName",
    "Ranker",
    "Report",
    "ReportRow",
    "check_targets",
    "evaluate",
    "gains",
    "hit_ranks",
    "rank_metrics",
]
