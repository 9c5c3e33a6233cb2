"""The settings from which tries are drawn, written down for every method, and how they are drawn."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from reg4rec.baselines import TigerConfig
from reg4rec.recipes import Recipe
from reg4rec.settings import override

__all__ = ["SPACES", "Changes", "SpaceName", "changed", "draw_changes"]

SpaceName = Literal["sparse", "dense"]
Changes = dict[str, Any]
Space = Mapping[str, tuple[Any, ...]]
NETWORK: Space = {
    "dim": (64, 128),
    "num_blocks": (1, 2),
    "num_heads": (1, 2),
    "dropout": (0.2, 0.3, 0.5),
    "num_negatives": (256, 512),
    "batch_targets": (256, 512),
    "learning_rate": (1e-3, 2e-3, 3e-3),
    "weight_decay": (0.0, 0.1, 0.3),
    "epochs": (12, 20),
}
GENERATIVE: Space = {
    "pretrain.dropout": (0.1, 0.2, 0.3),
    "pretrain.batch_targets": (256, 512),
    "pretrain.learning_rate": (1e-3, 2e-3, 3e-3),
    "pretrain.weight_decay": (0.05, 0.1, 0.3),
    "pretrain.epochs": (12, 16, 20),
}
LONG: Space = {"max_history": (50, 100, 200), "num_blocks": (1, 2), "dropout": (0.1, 0.2, 0.3), "epochs": (12, 20, 30)}
LONG_GENERATIVE: Space = {
    "pretrain.max_history": (50, 100, 200),
    "pretrain.dropout": (0.1, 0.2, 0.3),
    "pretrain.epochs": (12, 20, 30),
}
COUNTING: dict[str, Space] = {
    "transitions": {"second_weight": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)},
    "item-knn": {
        "neighbors": (20, 50, 100, 200, 400),
        "shrink": (0.0, 5.0, 20.0, 100.0),
        "decay": (0.5, 0.7, 0.85, 1.0),
    },
    "ease": {"regularization": (20.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)},
}
SPACES: dict[SpaceName, dict[str, Space]] = {
    "sparse": {
        **COUNTING,
        "sasrec": NETWORK,
        "sasrec-vectors": NETWORK,
        "rpg": {
            **{name: values for name, values in NETWORK.items() if name != "num_negatives"},
            "temperature": (0.07, 0.15, 0.3),
            "epochs": (20, 40),
        },
        "tiger": GENERATIVE,
        "reg4rec-paper": GENERATIVE,
        "reg4rec": {
            **GENERATIVE,
            "pretrain.dropout": (0.2, 0.3, 0.4),
            "pretrain.num_negatives": (256, 512, 1024),
            "pretrain.token_weight": (0.1, 0.3, 1.0),
        },
    },
    "dense": {
        **COUNTING,
        **dict.fromkeys(("sasrec", "sasrec-vectors", "rpg"), LONG),
        **dict.fromkeys(("tiger", "reg4rec-paper", "reg4rec"), LONG_GENERATIVE),
    },
}
"""By kind of data and method: the values of each setting, of which a try has one each, drawn evenly."""


def draw_changes(space: Space, tries: int, begin: Any) -> list[Changes]:
    """`tries` changes of settings that make different ones, or all there are: none first, then drawn ones.

    They are the same each time, whatever their number.
    """
    draw, found, possible = random.Random(0), [Changes()], 1
    for values in space.values():
        possible *= len(values)
    made, drawn = [begin], set[tuple[Any, ...]]()
    while space and len(found) < tries and len(drawn) < possible:
        changes = {name: draw.choice(values) for name, values in space.items()}
        drawn.add(tuple(changes.values()))
        if (settings := changed(begin, changes)) not in made:
            made.append(settings)
            found.append(changes)
    return found


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Settings of a method with changes, "dropout" or "pretrain.dropout" for those of a stage."""
    by_stage: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        stage, _, rest = name.rpartition(".")
        by_stage.setdefault(stage, {})[rest] = value
    if isinstance(settings, Recipe):
        return settings.change(**by_stage)
    if isinstance(settings, TigerConfig):
        stages = {stage: override(getattr(settings, stage), own) for stage, own in by_stage.items()}
        return replace(settings, **stages)
    return override(settings, by_stage.get("", {}))
