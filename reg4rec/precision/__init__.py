"""Number formats in training: LADQ chooses fp32, bf16 or fp8 for each layer."""

from reg4rec.precision.fp8_counts import Fp8Watch
from reg4rec.precision.ladq import Ladq, LadqConfig, linear_layers, set_formats

__all__ = ["Fp8Watch", "Ladq", "LadqConfig", "linear_layers", "set_formats"]
