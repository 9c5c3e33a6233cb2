"""The manifest of a job's folder: what the job is, which of its parts are finished, and their summary."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError, warn
from reg4rec.storage import entries, new_header, read_header, sha256_of, write_header
from reg4rec.writing import check_own, sweep

__all__ = ["PATH_COUNTS", "Job", "Manifest", "PartFormat", "part_name", "read_manifest"]

FORMAT, VERSION = "reg4rec-recommendations", 4
SUMMARY, SUMMARY_VERSION = "reg4rec-summary", 1
MANIFEST_SECONDS, MANIFEST_SHARE = 1.0, 0.05
"""Upper bound on the time spent rewriting the growing manifest: seconds, plus a fraction of the job's time. Parts that
are missing from it after a kill are made again."""
MAX_MANIFEST_BYTES = 1 << 34
PATH_COUNTS = ("paths_pruned", "fallbacks")
COUNTS = ("users", "rejected", "history_items", "unknown_items", "recommendations", *PATH_COUNTS)
MANY_UNKNOWN, MOST_UNKNOWN = 0.5, 0.9
"""Above the first fraction of unknown history items a job warns; above the second it fails unless that is allowed."""
Job = dict[str, Any]
PartFormat = Literal["parquet", "csv", "jsonl"]


class Manifest:
    """The manifest of a folder: the job and its finished parts; InputError if the folder belongs to another job."""

    def __init__(self, out: Path, job: Job, num_rows: int, resume: bool):
        self.out, self.job = out, job
        self.num_parts = -(-num_rows // job["users_in_part"])
        self.parts = _open_folder(out, job, resume)
        self._check_parts()
        self.num_resumed, self.started = len(self.parts), time.monotonic()
        self.writing_seconds = 0.0

    def add(self, part: dict[str, Any]) -> None:
        """Add a finished part."""
        self.parts[part["file"]] = part
        if self.writing_seconds <= MANIFEST_SECONDS + MANIFEST_SHARE * (time.monotonic() - self.started):
            self._write()

    def _write(self) -> None:
        began = time.monotonic()
        _write_manifest(self.out, self.job, self._sorted())
        self.writing_seconds += time.monotonic() - began

    def _sorted(self) -> list[dict[str, Any]]:
        return sorted(self.parts.values(), key=lambda made: made["first_row"])

    def _check_parts(self) -> None:
        """InputError for a part of another job: whoever reads all parts would read it too."""
        own = {part_name(number, self.job) for number in range(self.num_parts)}
        foreign = sorted(file.name for file in _parts_in(self.out) if file.name not in own)
        if foreign:
            raise InputError(
                f"{self.out} contains {', '.join(foreign[:3])}, which this job of {self.num_parts} parts did not "
                "write; remove it, or choose another folder"
            )

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`; None unless it, all parts and the rejected rows are complete."""
        path = self.out / "summary.json"
        if len(self.parts) < self.num_parts or not path.exists():
            return None
        try:
            header = read_header(path, SUMMARY, SUMMARY_VERSION)
        except InputError:
            return None
        if "warning" in header:
            warn(header["warning"])
        return entries(header)

    def summarize(
        self, batch_seconds: Sequence[float], num_searched: int, items: ItemCatalog, allow_unknown: bool
    ) -> dict[str, Any]:
        """Write the manifest of all parts and the summary: counts of all parts, times since the folder was opened.

        InputError, without a summary, if most history items are unknown and that is not allowed.
        """
        self._write()
        counts = {name: sum(part[name] for part in self.parts.values()) for name in COUNTS}
        warning = _check_known(counts, items, allow_unknown)
        seconds, parts = time.monotonic() - self.started, self._sorted()
        sources = sum((Counter(part["sources"]) for part in parts), Counter())
        milliseconds = np.multiply(1000, batch_seconds)
        summary = {
            **counts,
            **({} if warning is None else {"warning": warning}),
            "retriever": self.job["retriever"],
            "sources": dict(sources),
            "parts": len(parts),
            "parts_resumed": self.num_resumed,
            "seconds": seconds,
            "users_per_second": num_searched / seconds,
            "batch_ms": {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 95, 99) if len(milliseconds)},
        }
        header = new_header(SUMMARY, SUMMARY_VERSION, **summary)
        write_header(self.out / "summary.json", header, ["rejected.parquet"])
        return summary


def part_name(number: int, job: Job) -> str:
    """The file name of a part."""
    return f"part-{number:05d}.{job['format']}"


def read_manifest(path: Path) -> dict[str, Any]:
    """What a manifest holds; InputError for other files."""
    return read_header(path, FORMAT, VERSION, most_bytes=MAX_MANIFEST_BYTES)


def _parts_in(folder: Path) -> list[Path]:
    return [file for kind in get_args(PartFormat) for file in folder.glob(f"part-*.{kind}")]


def _check_known(counts: dict[str, int], items: ItemCatalog, allow_unknown: bool) -> str | None:
    """A warning if many history items are unknown; InputError if most are and that is not allowed; else None."""
    unknown, total = counts["unknown_items"], counts["history_items"]
    if unknown <= MANY_UNKNOWN * total:
        return None
    found = f"{unknown:,} of {total:,} history items ({unknown / total:.0%}) are not in the catalog"
    remedy = f"ids must be spelled and typed as in the items table, such as {items.ids[0].as_py()!r}"
    if unknown > MOST_UNKNOWN * total and not allow_unknown:
        raise InputError(
            f"{found}, so most users would get the list of an unknown user; {remedy}. If you expect that, run the job "
            "again with --allow-unknown (allow_unknown=True); it continues from here"
        )
    warn(f"{found}; {remedy}")
    return f"{found}; {remedy}"


def _open_folder(out: Path, job: Job, resume: bool) -> dict[str, dict[str, Any]]:
    """The finished parts in `out`, by file name; InputError if it holds another job or other files."""
    manifest = out / "manifest.json"
    if not manifest.exists():
        check_own(out, [manifest.name])
        sweep(out)  # remove the temporary file of a first manifest that was not finished
        _write_manifest(out, job, [])
        return {}
    header = read_manifest(manifest)
    sweep(out)
    if not resume:
        for file in (out / "summary.json", out / "rejected.parquet", *_parts_in(out)):
            file.unlink(missing_ok=True)
        _write_manifest(out, job, [])
        return {}
    try:
        found, parts = dict(header["job"]), {part["file"]: part for part in header["parts"]}
        differing = sorted(name for name in found.keys() | job.keys() if found.get(name) != job.get(name))
        whole = {name: part for name, part in parts.items() if _is_whole(out / name, part["sha256"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{manifest} is incomplete or damaged: {error!r}; start over with resume off") from None
    if differing:
        raise InputError(
            f"{out} contains recommendations of another job ({', '.join(differing)} differ); "
            "choose another folder, run the same job, or start over with resume off"
        )
    return whole


def _write_manifest(out: Path, job: Job, parts: list[dict[str, Any]]) -> None:
    write_header(out / "manifest.json", new_header(FORMAT, VERSION, job=job, parts=parts))


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256
