"""The rows that a result is shown beside, trained like it: SASRec and TIGER."""

from reg4rec.baselines.sasrec import SASRec, SASRecConfig
from reg4rec.baselines.tiger import Tiger, TigerConfig

__all__ = ["SASRec", "SASRecConfig", "Tiger", "TigerConfig"]
