"""Experiments that answer one question each, by one command."""

from reg4rec.studies.cold_start import cold_start
from reg4rec.studies.config import ColdStartConfig
from reg4rec.studies.corp import CorpConfig, corp
from reg4rec.studies.corp_findings import CorpFindings
from reg4rec.studies.findings import ColdStartFindings
from reg4rec.studies.questions import QUESTIONS
from reg4rec.studies.report import gather, write_report
from reg4rec.studies.retrievers import RetrieverConfig, RetrieverFindings, retrievers
from reg4rec.studies.sampling import SamplingConfig, SamplingFindings, sampling
from reg4rec.studies.variant_findings import VariantFindings
from reg4rec.studies.variants import VariantConfig, recipe_of_studies, study_variants

__all__ = [
    "QUESTIONS",
    "ColdStartConfig",
    "ColdStartFindings",
    "CorpConfig",
    "CorpFindings",
    "RetrieverConfig",
    "RetrieverFindings",
    "SamplingConfig",
    "SamplingFindings",
    "VariantConfig",
    "VariantFindings",
    "cold_start",
    "corp",
    "gather",
    "recipe_of_studies",
    "retrievers",
    "sampling",
    "study_variants",
    "write_report",
]
