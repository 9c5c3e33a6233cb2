"""Interactions and items: reading, leave-one-out split, item views."""

from reg4rec.data.catalog import ItemCatalog
from reg4rec.data.dataset import Dataset
from reg4rec.data.interactions import read_interactions
from reg4rec.data.load import load_dataset
from reg4rec.data.sequences import Sequences
from reg4rec.data.shop import synthetic_shop
from reg4rec.data.views import ItemViews, ViewConfig

__all__ = [
    "Dataset",
    "ItemCatalog",
    "ItemViews",
    "Sequences",
    "ViewConfig",
    "load_dataset",
    "read_interactions",
    "synthetic_shop",
]
