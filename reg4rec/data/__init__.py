"""Interactions and items: reading, splits, item views."""

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.interactions import read_interactions
from reg4rec.data.load import load_dataset
from reg4rec.data.market import Market, MarketConfig
from reg4rec.data.sentences import encode_texts, sentence_view
from reg4rec.data.sequences import Sequences
from reg4rec.data.shop import synthetic_shop
from reg4rec.data.split import Cases, CutUnit, Split, SplitKind, TargetKind
from reg4rec.data.views import ItemViews, ViewConfig

__all__ = [
    "Cases",
    "CutUnit",
    "Dataset",
    "ItemCatalog",
    "ItemViews",
    "Market",
    "MarketConfig",
    "Sequences",
    "Split",
    "SplitKind",
    "TargetKind",
    "ViewConfig",
    "encode_texts",
    "load_dataset",
    "read_interactions",
    "sentence_view",
    "synthetic_shop",
]
