"""Builds the optional extension reg4rec._C with CMake; everything else is in pyproject.toml.

Environment: REG4REC_NATIVE=AUTO (default: without a compiler the package installs without the extension), ON (fail
then) or OFF; REG4REC_CUDA=AUTO (default: CUDA kernels when nvcc is found), ON or OFF.
"""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent


def find_tool(name: str, folder_attribute: str) -> str | None:
    """The program of the Python package `name` (cmake, ninja), else the one on PATH."""
    try:
        folder = getattr(importlib.import_module(name), folder_attribute)
    except (ImportError, AttributeError):
        return shutil.which(name)
    return shutil.which(name, path=folder) or shutil.which(name)


def run(command: list[str]) -> str | None:
    """Run a build command; None when it succeeds, else the first lines that name an error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if "error" in line.lower()), len(lines))
    return f"{Path(command[0]).name} failed: {' '.join(lines[first : first + 2]) or f'exit status {done.returncode}'}"


def build_native(target: Path, build: Path) -> str | None:
    """Build _C and put it at `target`; returns why it could not be built, or None."""
    if os.environ.get("REG4REC_NATIVE", "AUTO").upper() == "OFF":
        return "it was switched off by REG4REC_NATIVE=OFF"
    cmake, ninja = find_tool("cmake", "CMAKE_BIN_DIR"), find_tool("ninja", "BIN_DIR")
    if cmake is None or ninja is None:
        return "cmake or ninja was not found when it was built"
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        return "no C++ compiler was found when it was built"
    pybind11 = importlib.import_module("pybind11").get_cmake_dir()
    configure = [
        *(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-Dpybind11_DIR={pybind11}", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-DREG4REC_CUDA={os.environ.get('REG4REC_CUDA', 'AUTO').upper()}",
    ]
    problem = run(configure) or run([cmake, "--build", str(build)])
    if problem is None:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.fresh")
        shutil.copy2(build / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", fresh)
        fresh.replace(target)  # processes that run on the one before keep it
    return problem


class BuildNative(build_ext):
    """Builds reg4rec._C, or leaves the reason why not beside where it would be, for `reg4rec info`."""

    def run(self) -> None:
        target = Path(self.get_ext_fullpath("reg4rec._C")).absolute()
        note = target.with_name("_C.missing.txt")
        problem = build_native(target, Path(self.build_temp).absolute() / "cmake")
        if problem is None:
            note.unlink(missing_ok=True)
            return
        if os.environ.get("REG4REC_NATIVE", "AUTO").upper() == "ON":
            raise SystemExit(f"reg4rec._C cannot be built: {problem}")
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(problem + "\n", encoding="utf-8")
        print(f"reg4rec installs without its extension: {problem}")


setup(
    packages=find_namespace_packages(include=["reg4rec", "reg4rec.*"]),
    package_data={"reg4rec": ["py.typed"], "reg4rec.csrc": ["*.cuh", "call.h", "*_call.h"]},
    ext_modules=[Extension("reg4rec._C", sources=[])],
    cmdclass={"build_ext": BuildNative},
)
