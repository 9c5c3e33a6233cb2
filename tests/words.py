"""Phrases that make a reader stop, and the files that must not have them: `python -m tests.words`, in `make lint`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "reg4rec/**/*.py",
    "kernels/**/*.py",
    "csrc/*.*",
    "bench/*.py",
    "examples/*.py",
    "tests/**/*.py",
    "tests/**/*.cpp",
)
BANNED = {
    "there are none of": "name what is missing",
    "of then": "say of which version",
    "beside other work": "on a shared machine",
    "(?:stand|stands|stood) in": "is in, is saved in",
    "anew": "again",
    "where there is one": "if there is one",
    "oftener": "more often",
    "to be told": "say who says it",
    "as it is": "unchanged",
    "so many": "say how many",
    r"tells(?!(?: \w+){1,3} apart)": "says, shows",
    "of its own": "its own, a separate",
}


def hits(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    for phrase, better in BANNED.items():
        for hit in re.finditer(rf"\b{phrase}\b".replace(" ", r"\s+"), text, re.IGNORECASE):
            line = text[: hit.start()].count("\n") + 1
            yield f"{path.relative_to(ROOT)}:{line}: {' '.join(hit[0].split())!r}: {better}"


if __name__ == "__main__":
    paths = [path for place in PLACES for path in sorted(ROOT.glob(place)) if path != Path(__file__).resolve()]
    found = [hit for path in paths for hit in hits(path)]
    sys.exit("\n".join(found) or 0)
