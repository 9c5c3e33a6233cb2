"""reg4rec: generative recommendation that reasons over unordered semantic tokens (REG4Rec, arXiv 2508.15308).

    rec = reg4rec.fit("clicks.csv", "items.csv", out="runs/shop")
    rec.recommend({"ann": ["B01", "B77"], "bob": []}, k=10)

`reg4rec.recipes` shows the stages of `fit`.

Names are imported on first use, which keeps `import reg4rec` fast.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_dataset": "data",
    "read_interactions": "data",
    "synthetic_shop": "data",
    "Dataset": "data",
    "ItemCatalog": "data",
    "ViewConfig": "data",
    "fit_tokenizer": "tokenizer",
    "Tokenizer": "tokenizer",
    "TokenizerConfig": "tokenizer",
    "Reg4RecModel": "model",
    "Recommender": "recommend",
    "explain": "recommend",
    "SearchConfig": "search",
    "evaluate": "evaluation",
    "Popularity": "evaluation",
    "Ranker": "evaluation",
    "Report": "evaluation",
    "pretrain": "train",
    "fit_recommender": "train",
    "PretrainConfig": "train",
    "PretrainStage": "train",
    "align": "alignment",
    "AlignConfig": "alignment",
    "RewardedPaths": "alignment",
    "fit": "recipes",
    "Recipe": "recipes",
    "RECIPES": "recipes",
    "Run": "run",
    "LoopConfig": "loop",
    "SASRec": "baselines",
    "SASRecConfig": "baselines",
    "Tiger": "baselines",
    "TigerConfig": "baselines",
    "compare": "experiments",
    "CompareConfig": "experiments",
    "InputError": "errors",
    "TokenizerCollapseError": "errors",
}
_MODULES = ("ops",)

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"reg4rec.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"reg4rec.{name}")
    raise AttributeError(f"module 'reg4rec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
