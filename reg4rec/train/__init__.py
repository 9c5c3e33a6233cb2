"""Pre-training of the encoder-decoder, and calibration: the choice of search settings by validation."""

from reg4rec.train.calibration import calibrate
from reg4rec.train.config import PretrainConfig
from reg4rec.train.fit import fit_recommender
from reg4rec.train.pretrain import PretrainStage, pretrain
from reg4rec.train.windows import Batch

__all__ = ["Batch", "PretrainConfig", "PretrainStage", "calibrate", "fit_recommender", "pretrain"]
