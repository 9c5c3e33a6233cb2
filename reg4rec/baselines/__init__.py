"""Baselines to compare with: untrained (transitions, item-kNN, EASE) and trained (SASRec, TIGER, RPG)."""

from reg4rec.baselines.ease import Ease, EaseConfig
from reg4rec.baselines.item_knn import ItemKNN, ItemKNNConfig
from reg4rec.baselines.rpg import Rpg, RpgConfig
from reg4rec.baselines.sasrec import SASRec, SASRecConfig
from reg4rec.baselines.tiger import Tiger, TigerConfig
from reg4rec.baselines.transitions import Transitions, TransitionsConfig

__all__ = [
    "Ease",
    "EaseConfig",
    "ItemKNN",
    "ItemKNNConfig",
    "Rpg",
    "RpgConfig",
    "SASRec",
    "SASRecConfig",
    "Tiger",
    "TigerConfig",
    "Transitions",
    "TransitionsConfig",
]
