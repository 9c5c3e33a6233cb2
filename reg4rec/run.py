"""Where and how a stage runs: the argument that every stage takes besides data and settings."""

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
    """Where a stage writes, its seed, its device, and whether it resumes.

        reg4rec.fit_tokenizer(data, run=reg4rec.Run("runs/tokens", seed=1))

    InputError for a seed below 0 or above 2^31 - 1.
    """

    out: str | Path | None = None
    """the run folder; None keeps everything in memory"""
    seed: int = 0
    """seed of all random numbers; on the CPU, the same seed and number of threads give bit-identical results"""
    device: str = "auto"
    """auto (a GPU if present), cpu, cuda, cuda:1 ..."""
    resume: bool = True
    """resume a killed run from its last checkpoint; False starts over"""
    progress: bool = True
    """show a progress bar and a line for each epoch on standard error"""

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out)

    def stage(self, name: str) -> "Run":
        """The run of one stage, in the subfolder `name`."""
        return self if self.out is None else replace(self, out=Path(self.out) / name)

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """Seed torch within the block; afterwards its random state is restored."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield


@dataclass(frozen=True, kw_only=True)
class SharedRun(Run):
    """A run whose stage folders are named by a hash of all settings up to that stage, so that runs share equal fits.

    `decided_by`: in order of the stages, the settings of each and anything else that its result depends on, as JSON.
    """

    decided_by: Mapping[str, Any]

    def stage(self, name: str) -> Run:
        return Run(self.folder_of(name), self.seed, self.device, self.resume, self.progress)

    def folder_of(self, name: str) -> Path:
        """The folder of a stage: its name and a digest of its settings and those of all earlier stages."""
        names = list(self.decided_by)
        deciding = {key: self.decided_by[key] for key in names[: names.index(name) + 1]}
        return Path(self.out or ".") / f"{name}-{digest_of(deciding)}"


def digest_of(settings: Mapping[str, Any]) -> str:
    """A digest of JSON settings, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def choose_device(device: str | torch.device) -> torch.device:
    """The device called `device`; "auto" takes a GPU if present. InputError if it cannot be used here.

    In a group of processes "auto" and "cuda" give each process its own GPU.
    """
    distributed.world()  # joining a group selects the process's GPU
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from None
