"""Where a stage writes and how it runs: the one argument that every stage takes beside data and settings."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reg4rec import distributed
from reg4rec.errors import InputError
from reg4rec.settings import check_seed

__all__ = ["Run", "SharedRun", "choose_device", "digest_of"]


@dataclass(frozen=True)
class Run:
    """Where a stage writes, its seed, its device, and whether it goes on from what it finds.

        reg4rec.fit_tokenizer(data, run=reg4rec.Run("runs/tokens", seed=1))

    InputError for a seed that not every source of random numbers takes.
    """

    out: str | Path | None = None
    """the run folder; None keeps everything in memory"""
    seed: int = 0
    """of all that is drawn; the same seed gives the same bits on the CPU with the same number of threads"""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1 ..."""
    resume: bool = True
    """go on from what a killed run left in the folder; False starts over"""
    progress: bool = True
    """show a progress bar and a line for each epoch on standard error"""

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out)

    def stage(self, name: str) -> "Run":
        """The run of one stage of several, in a folder of that name inside this one's."""
        return self if self.out is None else replace(self, out=Path(self.out) / name)

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """Within the block torch draws from this seed; afterwards its random state is what it was before."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield


@dataclass(frozen=True, kw_only=True)
class SharedRun(Run):
    """A run whose stages lie in folders named after what decides them, so that runs that begin alike share fits.

    `decided_by` holds the settings of each stage, as JSON has them, and what else decides them all, in order.
    """

    decided_by: Mapping[str, Any]

    def stage(self, name: str) -> Run:
        return Run(self.folder_of(name), self.seed, self.device, self.resume, self.progress)

    def folder_of(self, name: str) -> Path:
        """Where a stage lies: its name and a digest of its settings and of all before it."""
        names = list(self.decided_by)
        deciding = {key: self.decided_by[key] for key in names[: names.index(name) + 1]}
        return Path(self.out or ".") / f"{name}-{digest_of(deciding)}"


def digest_of(settings: Mapping[str, Any]) -> str:
    """Twelve digits that differ where settings, as JSON has them, differ."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. InputError if it cannot be used here.

    In a group of processes "auto" and "cuda" are each one's own GPU.
    """
    distributed.world()  # a process that joins a group chooses its GPU
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from None
