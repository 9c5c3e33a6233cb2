"""Experiments that answer one question each, by one command."""

from reg4rec.studies.cold_start import cold_start
from reg4rec.studies.config import ColdStartConfig
from reg4rec.studies.corp import CorpConfig, corp
from reg4rec.studies.corp_findings import CorpFindings
from reg4rec.studies.findings import ColdStartFindings
from reg4rec.studies.sampling import SamplingConfig, SamplingFindings, sampling

__all__ = [
    "ColdStartConfig",
    "ColdStartFindings",
    "CorpConfig",
    "CorpFindings",
    "SamplingConfig",
    "SamplingFindings",
    "cold_start",
    "corp",
    "sampling",
]
