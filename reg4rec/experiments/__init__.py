"""Experiments that answer one question each, by one command: methods compared, recipes changed, parts taken apart."""

from reg4rec.experiments.cold_start import ColdStartConfig, cold_start
from reg4rec.experiments.compare import compare
from reg4rec.experiments.compare_config import CompareConfig
from reg4rec.experiments.corp import CorpConfig, corp
from reg4rec.experiments.finding import Finding
from reg4rec.experiments.questions import QUESTIONS
from reg4rec.experiments.report import gather, write_report
from reg4rec.experiments.retrievers import RetrieverConfig, retrievers
from reg4rec.experiments.sampling import SamplingConfig, sampling
from reg4rec.experiments.variants import VariantConfig, recipe_of_studies, study_variants

__all__ = [
    "QUESTIONS",
    "ColdStartConfig",
    "CompareConfig",
    "CorpConfig",
    "Finding",
    "RetrieverConfig",
    "SamplingConfig",
    "VariantConfig",
    "cold_start",
    "compare",
    "corp",
    "gather",
    "recipe_of_studies",
    "retrievers",
    "sampling",
    "study_variants",
    "write_report",
]
