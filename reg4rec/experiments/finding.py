"""What an experiment found: rows, tables of them, and one way to save both as JSON, Markdown and a picture."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch

import reg4rec
from reg4rec.data import Dataset
from reg4rec.experiments.job import plain
from reg4rec.experiments.questions import QUESTIONS
from reg4rec.pictures import save_picture
from reg4rec.recommend import Recommender
from reg4rec.storage import new_header, write_header
from reg4rec.writing import atomic_file, check_own

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SPLITS",
    "Columns",
    "Finding",
    "Picture",
    "Spread",
    "Table",
    "check_study_folder",
    "markdown_table",
    "ranking",
    "versions",
]

Row = TypeVar("Row")
Columns = Mapping[str, str | Callable[[Any], str]]
"""By head, how a row is written in a column: a format, `{row.seconds:.1f}` say, or a function of it."""
SPLITS: tuple[Literal["validation", "test"], ...] = ("validation", "test")
NAMES = ("cold-start", "corp", "retrievers", "sampling", *QUESTIONS)


class Table(NamedTuple):
    """Rows and columns, below a title and the paragraph `about`."""

    rows: Sequence[Any]
    columns: Columns
    title: str = ""
    about: str = ""

    def __str__(self) -> str:
        forms = self.columns.values()
        cells = [[form.format(row=row) if isinstance(form, str) else form(row) for form in forms] for row in self.rows]
        above = [f"## {self.title}\n"] * bool(self.title) + [f"{self.about}\n"] * bool(self.about)
        return "\n".join([*above, f"{markdown_table([list(self.columns), *cells])}\n"])


class Picture(NamedTuple):
    """Width and height in inches, and what fills the figure."""

    width: float
    height: float
    draw: Callable[["Figure"], object]


@dataclass
class Finding(Generic[Row]):
    """What an experiment found, and under what.

    `name` is that of its files, `form` name and version of its JSON file, in which `facts` are further entries.
    In the Markdown `question` is the title, `how` the paragraph below the tables, and `notes` the last lines.
    """

    name: str
    form: tuple[str, int]
    dataset: str
    question: str
    rows: list[Row]
    tables: list[Table]
    how: str
    settings: dict[str, Any]
    versions: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None

    def markdown(self) -> str:
        """Tables, readable on a console too, and what they were measured under."""
        versions = ", ".join(f"{name} {value}" for name, value in self.versions.items())
        title = f"# {self.dataset}: {self.question}\n"
        return "\n".join([title, *map(str, self.tables), f"{self.how} {versions}.", *self.notes]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """What its JSON file holds."""
        common = {name: getattr(self, name) for name in ("dataset", "rows", "settings", "versions", "notes")}
        found: dict[str, Any] = plain(common | self.facts)
        return new_header(*self.form, **found)

    def save(self, folder: Path) -> "Finding[Row]":
        """Write `NAME.json`, `NAME.md` and, with matplotlib, `NAME.png`; a note says if the picture was left out."""
        if self.picture:
            reason = save_picture(folder / f"{self.name}.png", *self.picture[:2], self._draw)
            self.notes += [f"{self.name}.png was left out: {reason}"] if reason else []
        write_header(folder / f"{self.name}.json", self.as_dict())
        with atomic_file(folder / f"{self.name}.md") as fresh:
            fresh.write_text(self.markdown(), encoding="utf-8")
        return self

    def _draw(self, figure: "Figure") -> None:
        assert self.picture is not None
        self.picture.draw(figure)
        for panel in figure.axes:
            panel.spines[["top", "right"]].set_visible(False)
            panel.title.set_fontsize(10)
        figure.suptitle(f"{self.dataset}: {self.question}", fontsize=11)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


def check_study_folder(out: Path) -> None:
    """InputError for a folder that holds files, and none of a study."""
    check_own(out, ["fits", "results", *(f"{name}.*" for name in NAMES)])


def ranking(recommender: Recommender, data: Dataset) -> dict[str, Any]:
    """What decides how a recommender ranks, for a `Job` that measures it."""
    return {
        "dataset": data.card["fingerprint"],
        "recommender": recommender.fingerprint(),
        "device": recommender.device.type,
        "dtype": str(recommender.dtype).removeprefix("torch."),
    }


def versions(device: str) -> dict[str, Any]:
    """What a result was measured with."""
    on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
    return {
        "reg4rec": reg4rec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def markdown_table(lines: list[list[str]]) -> str:
    """A Markdown table, readable on a console too, whose first line is the head and whose first column is text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])
