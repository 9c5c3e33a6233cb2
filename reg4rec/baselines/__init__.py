"""The rows that every result is shown beside."""

from reg4rec.baselines.popularity import Popularity
from reg4rec.baselines.sasrec import SASRec, SASRecConfig
from reg4rec.baselines.tiger import Tiger, TigerConfig

__all__ = ["Popularity", "SASRec", "SASRecConfig", "Tiger", "TigerConfig"]
