"""Training: pre-training of the encoder-decoder, alignment, and what validation decides about the search."""

from reg4rec.train.align import align
from reg4rec.train.align_config import AlignConfig, RewardWeights
from reg4rec.train.calibration import calibrate
from reg4rec.train.config import PretrainConfig
from reg4rec.train.fit import fit_recommender
from reg4rec.train.pretrain import pretrain

__all__ = [
    "AlignConfig",
    "PretrainConfig",
    "RewardWeights",
    "align",
    "calibrate",
    "fit_recommender",
    "pretrain",
]
