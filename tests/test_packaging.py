"""What is shipped, what an import costs, and what the accelerated code may import."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(p for p in (ROOT / "kernels").rglob("*.py") if "__pycache__" not in p.parts)
ALLOWED = {"torch", "numpy", "cupy", "triton"} | set(sys.stdlib_module_names)

BUILD = """
import os, sys, tarfile
from setuptools import build_meta
checkout, out = sys.argv[1:]
os.chdir(checkout)
sdist = build_meta.build_sdist(out)
with tarfile.open(os.path.join(out, sdist)) as archive:
    archive.extractall(out, filter="data")
os.chdir(os.path.join(out, sdist.removesuffix(".tar.gz")))
print(sdist, build_meta.build_wheel(out), sep="\\n")
"""

IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, "brings", *sorted({"triton", "cupy", "polars", "sklearn", "scipy", "reg4rec._C"} & set(sys.modules)))
import torch
print("CUDA:", torch.cuda.is_initialized())
"""

# an editable install would provide its extension to the unpacked wheel
REPORT = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
from reg4rec import ops
print(ops.__file__)
print(ops.status()["backends"]["cpp"])
"""


def foreign_imports(module: Path) -> Iterator[str]:
    depth = len(module.relative_to(ROOT / "kernels").parts)
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] not in ALLOWED)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if str(node.module).partition(".")[0] not in ALLOWED:
                yield str(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            yield from (f"{node.module or 'reg4rec'}.{alias.name}" for alias in node.names if alias.name != "_C")


def test_kernels_import_what_computes_and_the_extension_only() -> None:
    found = [f"{module.relative_to(ROOT)} imports {name}" for module in MODULES for name in foreign_imports(module)]
    assert not found, "\n".join(["", *found])


def test_kernels_never_become_a_package_of_that_name() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert (ROOT / "reg4rec" / "kernels").resolve() == ROOT / "kernels"
    assert (ROOT / "reg4rec" / "csrc").resolve() == ROOT / "csrc"


def test_the_citation_has_the_version_and_license_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_an_import_brings_nothing_heavy() -> None:
    names = ["reg4rec", "reg4rec.ops", "reg4rec.data", "reg4rec.tokenizer"]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*(f"{name} brings" for name in names), "CUDA: False"]


def copy_checkout(to: Path) -> None:
    """The files that a checkout would have, links as links."""
    skipped = {".git", ".venv", "build", "dist", "runs", "__pycache__"}
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in skipped and not n.startswith(".") and not n.endswith(".egg-info")]
        here = to / Path(folder).relative_to(ROOT)
        here.mkdir(exist_ok=True)
        for name in [n for n in names if (Path(folder) / n).is_symlink()]:
            (here / name).symlink_to(os.readlink(Path(folder) / name))
        for name in files:
            if Path(name).suffix in {".py", ".cpp", ".h", ".cu", ".cuh", ".toml", ".txt", ".in", ".md", ".cff", ""}:
                (here / name).write_bytes((Path(folder) / name).read_bytes())
    (to / "README.md").touch()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source archive, and the wheel of that archive, built as on a machine without a compiler."""
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("out")
    copy_checkout(checkout)
    environment = {**os.environ, "REG4REC_NATIVE": "OFF"}
    command = [sys.executable, "-c", BUILD, str(checkout), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reg4rec installs without its extension" in done.stdout
    sdist, wheel = done.stdout.splitlines()[-2:]
    return out / sdist, out / wheel


def test_the_source_archive_has_what_a_build_needs(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"} <= names
    pages = [path for folder, end in (("docs", "md"), ("examples", "py")) for path in (ROOT / folder).glob(f"*.{end}")]
    assert {str(path.relative_to(ROOT)) for path in pages} <= names
    assert {f"csrc/{path.name}" for path in (ROOT / "csrc").iterdir()} <= names
    assert {f"reg4rec/kernels/{path.relative_to(ROOT / 'kernels')}" for path in MODULES} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_imports_and_says_why_it_has_no_extension(archives: tuple[Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        wheel.extractall(tmp_path)
        names = set(wheel.namelist())
    assert {f"reg4rec/kernels/{path.relative_to(ROOT / 'kernels')}" for path in MODULES} <= names
    assert {f"reg4rec/csrc/{name}" for name in ("js_divergence.cuh", "js_divergence_call.h", "call.h")} <= names
    assert not [name for name in names if name.startswith(("kernels/", "csrc/", "tests/", "bench/"))]
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    file, reason = done.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert "it was switched off by REG4REC_NATIVE=OFF" in reason


def test_the_image_takes_what_exists() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert ["csrc"] in copied
    assert all((ROOT / path).exists() for paths in copied for path in paths)
    (extra,) = {found for line in lines for found in re.findall(r"\.whl\)\[(\w+)\]", line)}
    assert {name.partition(">")[0] for name in PROJECT["optional-dependencies"][extra]} == {"starlette", "uvicorn"}
    version = next(line for line in lines if line.startswith("FROM python:")).removeprefix("FROM python:")
    assert f"Programming Language :: Python :: {version.partition('-')[0]}" in PROJECT["classifiers"]
