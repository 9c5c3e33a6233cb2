"""What a command prints at its end: text for a person, or one JSON object for a program."""

from collections.abc import Mapping
from typing import Any

from reg4rec import distributed
from reg4rec.storage import to_json

__all__ = ["show"]


def show(text: str, facts: Mapping[str, Any], as_json: bool) -> None:
    """Print `text`, or `facts` as JSON, once for a group of processes; progress has gone to standard error."""
    if distributed.is_first():
        print(to_json(facts) if as_json else text)
