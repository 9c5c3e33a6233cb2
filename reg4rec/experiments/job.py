"""Measurements that are made once: what they found is saved in a folder named after all that decides it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reg4rec.run import digest_of
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors

__all__ = ["Job", "plain"]

RANKS = "ranks.safetensors"


class Job:
    """What some settings decide, in `FOLDER/NAME-DIGEST/result.json`: each fact is measured once, and read afterwards.

    A killed job continues with the facts that are missing. The digest is that of `decided_by`, so other settings have
    another folder. InputError for a result of another version, and for one that was changed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        decided_by: Mapping[str, Any],
        form: tuple[str, int] = ("reg4rec-measured", 1),
    ):
        self.decided_by, self.form = plain(decided_by), form
        self.path = folder / f"{name}-{digest_of(self.decided_by)}" / "result.json"

    @cached_property
    def found(self) -> dict[str, Any]:
        """All facts so far. Those that a measurement adds are saved with its own."""
        if self.path.exists():
            return read_header(self.path, *self.form)
        return new_header(*self.form, decided_by=self.decided_by)

    def once(self, fact: str, measure: Callable[[], Any]) -> Any:
        """The fact of that name, as JSON has it: read, or measured and saved whole."""
        if fact not in self.found:
            self.found[fact] = plain(measure())
            write_header(self.path, self.found, [RANKS] if self.path.with_name(RANKS).exists() else [])
        return self.found[fact]

    def keep(self, **ranks: npt.NDArray[Any]) -> None:
        """Save all arrays of the job; to be called while the fact that they belong to is measured."""
        write_tensors(self.path.with_name(RANKS), ranks)

    @cached_property
    def ranks(self) -> dict[str, npt.NDArray[Any]]:
        """What was kept."""
        return {name: tensor.numpy() for name, tensor in read_tensors(self.path.with_name(RANKS)).items()}


def plain(settings: Any) -> Any:
    """Settings as JSON gives them back."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return plain(asdict(settings))
    if isinstance(settings, dict):
        return {name: plain(value) for name, value in settings.items()}
    return [plain(value) for value in settings] if isinstance(settings, list | tuple) else settings
