"""What the study of cold starts holds out and fits."""

from dataclasses import dataclass, field

from reg4rec.baselines import SASRecConfig
from reg4rec.errors import InputError
from reg4rec.recipes import RECIPES, Recipe
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings

__all__ = ["ColdStartConfig"]


@dataclass(frozen=True)
class ColdStartConfig:
    """A study of items and users that training never saw. Epochs and search are chosen on validation items seen."""

    items: float = 0.1
    """part of the items held out: nothing is fitted on their texts, matrices or interactions"""
    users: float = 0.1
    """part of the users held out, with all their interactions"""
    newest: tuple[int, ...] = (1, 2, 4)
    """lengths that users' histories are cut to, oldest items first, beside whole ones"""
    seed: int = 0
    """seed of what is held out and of every fit"""
    reg4rec: Recipe = field(default_factory=lambda: RECIPES["default"])
    sasrec: SASRecConfig = field(default_factory=SASRecConfig)

    def __post_init__(self) -> None:
        check_settings(
            self,
            ("items", 0 < self.items < 1, "above 0 and below 1"),
            ("users", 0 < self.users < 1, "above 0 and below 1"),
            ("newest", all(n >= 1 for n in self.newest), "lengths from 1 up"),
            ("seed", self.seed in SEEDS, SEED_RANGE),
        )
        if {self.reg4rec.pretrain.part, self.sasrec.part} != {"train"}:
            raise InputError("a study of cold starts trains on the training part; leave part unchanged")
