"""Output of commands: text, or one JSON object with --json."""

import sys
from collections.abc import Mapping
from typing import Any

from reg4rec.storage import to_json

__all__ = ["show"]


def show(text: str, facts: Mapping[str, Any], as_json: bool) -> None:
    """Print `text`, or `facts` as JSON, to standard output; in a group only the first process prints."""
    if "torch" not in sys.modules or _is_first():
        print(to_json(facts) if as_json else text)


def _is_first() -> bool:
    from reg4rec import distributed

    return distributed.is_first()
