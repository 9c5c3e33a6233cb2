"""What a command prints at its end: text for a person, or one JSON object for a program."""

import sys
from collections.abc import Mapping
from typing import Any

from reg4rec.storage import to_json

__all__ = ["show"]


def show(text: str, facts: Mapping[str, Any], as_json: bool) -> None:
    """Print `text`, or `facts` as JSON, once for a group of processes; progress has gone to standard error."""
    if "torch" not in sys.modules or _is_first():
        print(to_json(facts) if as_json else text)


def _is_first() -> bool:
    from reg4rec import distributed

    return distributed.is_first()
