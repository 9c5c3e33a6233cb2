"""What is compared: methods with their settings, protocols, seeds, tries."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from reg4rec.baselines import EaseConfig, ItemKNNConfig, RpgConfig, SASRecConfig, TigerConfig, TransitionsConfig
from reg4rec.errors import InputError
from reg4rec.experiments.spaces import SpaceName
from reg4rec.recipes import RECIPES, Recipe
from reg4rec.settings import SEED_RANGE, SEEDS, check_settings

__all__ = ["CompareConfig", "MethodName", "TableProtocol"]

MethodName = Literal[
    "popularity",
    "transitions",
    "item-knn",
    "ease",
    "sasrec",
    "sasrec-vectors",
    "rpg",
    "tiger",
    "reg4rec-paper",
    "reg4rec",
    "reg4rec-paths",
    "reg4rec-paper-aligned",
    "reg4rec-aligned",
]
TableProtocol = Literal["standard", "filtered", "final"]


@dataclass(frozen=True)
class CompareConfig:
    """A comparison. Every method chooses its settings and its epoch on validation; test is read once, at the end."""

    methods: tuple[MethodName, ...] = ("popularity", "item-knn", "sasrec", "tiger", "reg4rec-paper", "reg4rec")
    """rows of the table, in this order"""
    protocols: tuple[TableProtocol, ...] = ("standard", "filtered")
    """standard: seen items stay, cold targets count; filtered: neither; final: filtered, trained on validation too"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """each method is fitted once a seed; mean and standard deviation are over them"""
    first_seed_only: tuple[MethodName, ...] = ()
    """methods that are fitted with the first seed alone"""
    tries: int = 1
    """settings of each method that are tried on validation, the given ones first, the others drawn; the best are fitted
    with all seeds"""
    space: SpaceName = "sparse"
    """where settings are drawn from: sparse, or dense for long histories"""
    winners: Path | None = None
    """folder of an earlier comparison, whose best settings these methods begin with"""
    transitions: TransitionsConfig = field(default_factory=TransitionsConfig)
    item_knn: ItemKNNConfig = field(default_factory=ItemKNNConfig)
    ease: EaseConfig = field(default_factory=EaseConfig)
    sasrec: SASRecConfig = field(default_factory=SASRecConfig)
    sasrec_vectors: SASRecConfig = field(
        default_factory=lambda: SASRecConfig(
            dim=128, num_heads=2, num_negatives=512, item_vectors=True, repeat_bias=True
        )
    )
    """SASRec that reads the vectors which our tokenizer reads, with the loss of our item scores"""
    rpg: RpgConfig = field(default_factory=RpgConfig)
    tiger: TigerConfig = field(default_factory=TigerConfig)
    reg4rec: Recipe = field(default_factory=lambda: RECIPES["default"])
    """what the method reg4rec is fitted with"""
    paper: Recipe = field(default_factory=lambda: RECIPES["paper"])
    """what the method reg4rec-paper is fitted with"""

    def __post_init__(self) -> None:
        for name, known in (("methods", get_args(MethodName)), ("protocols", get_args(TableProtocol))):
            chosen = getattr(self, name)
            if not chosen or set(chosen) - set(known) or len(set(chosen)) < len(chosen):
                raise InputError(f"{name} are one or more of {', '.join(known)}, each once; found {list(chosen)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not all(seed in SEEDS for seed in self.seeds):
            raise InputError(f"seeds are one or more numbers {SEED_RANGE}, each once; found {list(self.seeds)}")
        check_settings(
            self,
            ("first_seed_only", not set(self.first_seed_only) - set(get_args(MethodName)), "names of methods"),
            ("tries", self.tries >= 1, "1, the given settings alone, or more"),
            ("space", self.space in get_args(SpaceName), f"one of {', '.join(get_args(SpaceName))}"),
        )
        aligned = [name for name in self.methods if name.endswith("-aligned")]
        if aligned and "final" in self.protocols:
            raise InputError(
                f"{aligned[0]} has no protocol final: its fit trains on the validation items, by which alignment "
                "stops; leave out the one or the other"
            )
        networks = (self.sasrec, self.sasrec_vectors, self.rpg)
        trained = (*networks, self.tiger.pretrain, self.paper.pretrain, self.reg4rec.pretrain)
        if {config.part for config in trained} != {"train"}:
            raise InputError("a comparison sets part itself; the protocol final trains on the validation items too")
