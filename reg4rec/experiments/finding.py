"""What an experiment found: one way to save it, as JSON, Markdown and a picture."""

from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from reg4rec.experiments.questions import QUESTIONS
from reg4rec.pictures import save_picture
from reg4rec.storage import new_header, write_header
from reg4rec.writing import atomic_file, check_own

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Finding", "check_study_folder", "markdown_table"]

FITS = ("fits", "run", "measured.json", "tokenizer", "model", "sasrec")
NAMES = ("cold-start", "corp", "retrievers", "sampling", *QUESTIONS)


class Finding(ABC):
    """The base of dataclasses that hold rows and what they were measured under.

    `FORMAT`: name and version of the JSON file. `notes` are the last lines of the Markdown.
    """

    FORMAT: ClassVar[tuple[str, int]]
    notes: list[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of its files."""

    @abstractmethod
    def markdown(self) -> str:
        """Tables, readable on a console too, and what they were measured under."""

    def picture_size(self) -> tuple[float, float] | None:
        """Inches; None for a finding without a picture."""
        return None

    def draw(self, figure: "Figure") -> None:
        """Fill the picture, of `picture_size`."""
        raise NotImplementedError(f"a {type(self).__name__} has no picture")

    def as_dict(self) -> dict[str, Any]:
        """What its JSON file holds."""
        return new_header(*self.FORMAT, **asdict(self))  # type: ignore[call-overload]

    def save(self, folder: Path) -> None:
        """Write `NAME.json`, `NAME.md` and, with matplotlib, `NAME.png`; a note says if the picture was left out."""
        if (size := self.picture_size()) and (reason := save_picture(folder / f"{self.name}.png", *size, self.draw)):
            self.notes.append(f"{self.name}.png was left out: {reason}")
        write_header(folder / f"{self.name}.json", self.as_dict())
        with atomic_file(folder / f"{self.name}.md") as fresh:
            fresh.write_text(self.markdown(), encoding="utf-8")


def check_study_folder(out: Path) -> None:
    """InputError for a folder that holds files, and none of a study."""
    check_own(out, [*FITS, *(f"{name}.*" for name in NAMES)])


def markdown_table(lines: list[list[str]]) -> str:
    """A Markdown table, readable on a console too, whose first line is the head and whose first column is text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])
