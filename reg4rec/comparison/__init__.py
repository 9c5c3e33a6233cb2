"""Every method on one dataset in one run: the table beside which a result is read."""

from reg4rec.comparison.compare import compare
from reg4rec.comparison.config import CompareConfig
from reg4rec.comparison.table import Comparison

__all__ = ["CompareConfig", "Comparison", "compare"]
