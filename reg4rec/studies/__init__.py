"""Experiments that answer one question each, by one command."""

from reg4rec.studies.cold_start import cold_start
from reg4rec.studies.config import ColdStartConfig
from reg4rec.studies.findings import ColdStartFindings

__all__ = ["ColdStartConfig", "ColdStartFindings", "cold_start"]
