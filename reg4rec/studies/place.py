"""The folder that studies share: each writes its findings there under its own name, and its fits below."""

from pathlib import Path

from reg4rec.studies.questions import QUESTIONS
from reg4rec.writing import check_own

__all__ = ["check_study_folder"]

FITS = ("fits", "run", "measured.json", "tokenizer", "model", "sasrec")
NAMES = ("cold-start", "corp", "retrievers", "sampling", *QUESTIONS)


def check_study_folder(out: Path) -> None:
    """InputError for a folder that holds files, and none of a study."""
    check_own(out, [*FITS, *(f"{name}.*" for name in NAMES)])
