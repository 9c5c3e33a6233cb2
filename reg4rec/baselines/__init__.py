"""The rows that every result is shown beside."""

from reg4rec.baselines.popularity import Popularity

__all__ = ["Popularity"]
