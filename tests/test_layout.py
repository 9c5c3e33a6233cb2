"""What holds the library together: who may import whom, what is never used, what every public name carries."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = ("errors", "storage", "settings", "page", "ops", "distributed", "checkpoints", "loop", "kernels", "_C")
ROOMS = ("data", "tokenizer", "model", "infer", "evaluation", "train", "baselines", "comparison", "studies", "cli")
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = sorted(
    path for folder in ("reg4rec", "kernels") for path in (ROOT / folder).rglob("*.py") if "csrc" not in path.parts
)
SOURCES = [path for path in SOURCES if not path.is_relative_to(ROOT / "reg4rec" / "kernels")]  # a link to kernels
MODULES = [path for path in SOURCES if path.is_relative_to(ROOT / "reg4rec")]


def names_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[str]:
    """The absolute names of all modules that a file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """The part of reg4rec that an import goes to; None for other packages and for reg4rec itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "reg4rec" and len(parts) > 1 else None


def test_the_sources_are_found() -> None:
    rooms = {path.relative_to(ROOT / "reg4rec").parts[0] for path in MODULES}
    assert rooms >= {*ROOMS, "__init__.py", *(f"{name}.py" for name in GROUND if name not in ("kernels", "_C"))}
    assert {r.removesuffix(".py") for r in rooms} - {"__init__", *GROUND} == set(ROOMS)
    assert any(path.is_relative_to(ROOT / "kernels") for path in SOURCES)


def check_all(sources: list[Path], faults_of: Callable[[Path], Iterator[str]]) -> None:
    """One test walks all sources and names every fault it finds."""
    found = [f"{names_of(path)} {fault}" for path in sources for fault in faults_of(path)]
    assert not found, "\n".join(["", *found])


def forbidden_rooms(path: Path) -> Iterator[str]:
    own = path.relative_to(ROOT / "reg4rec").parts[0].removesuffix(".py")
    if own == "__init__":
        allowed: set[str] = set()
    elif own in GROUND:
        allowed = set(GROUND)
    else:
        allowed = {*GROUND, *ROOMS[: ROOMS.index(own) + 1]}
    found = {room for room in map(room_of, imported(path)) if room is not None}
    names = {"__version__"}  # `from reg4rec import __version__` is no room
    yield from (f"imports {room}, which comes after it" for room in sorted(found - names - allowed))


def test_a_later_room_imports_earlier_ones_never_the_other_way() -> None:
    check_all(MODULES, forbidden_rooms)


def ways_to_unpickle(path: Path) -> Iterator[str]:
    tops = {module.split(".")[0] for module in imported(path)}
    yield from (f"imports {module}" for module in sorted(tops & PICKLES))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            yield f"calls {ast.unparse(node)} in line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"may unpickle in line {node.value.lineno}"


def test_nothing_unpickles() -> None:
    check_all(SOURCES, ways_to_unpickle)


def test_no_file_is_called_utils() -> None:
    assert [names_of(path) for path in SOURCES if path.name == "utils.py"] == []


def public_names(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [e.value for e in ast.walk(node.value) if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    return []


def undescribed(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not ast.get_docstring(tree) and path.stat().st_size > 0:
        yield "does not say what it is for"
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for name in public_names(path):
        if name in defined and not is_described_elsewhere(path, name) and not ast.get_docstring(defined[name]):
            yield f"does not say what {name} is"


def test_public_names_say_what_they_are() -> None:
    check_all(SOURCES, undescribed)


def is_described_elsewhere(path: Path, name: str) -> bool:
    """The definition and the backends of an op have the op's contract, and `run` and `objection` the dispatcher's."""
    of_op = name.startswith(path.parent.name) or name in ("run", "objection")
    return path.is_relative_to(ROOT / "kernels") and path.name != "__init__.py" and of_op


def test_public_names_of_the_library_can_be_reached() -> None:
    import reg4rec

    for name in reg4rec.__all__:
        value = getattr(reg4rec, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert value.__module__.startswith("reg4rec.")
    assert set(reg4rec.__all__) <= set(dir(reg4rec))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        reg4rec.nothing  # noqa: B018
    for room in (*ROOMS, "ops"):
        module = importlib.import_module(f"reg4rec.{room}")
        assert all(hasattr(module, name) for name in module.__all__)


def unknown_decisions(path: Path) -> Iterator[str]:
    cited = set(re.findall(r"\bD\d+\b", path.read_text(encoding="utf-8")))
    yield from (f"cites {name}" for name in sorted(cited) if not re.fullmatch(r"D(1[0-4]|[1-9])", name))


def test_decisions_that_are_cited_exist() -> None:
    """The project's decisions are numbered D1 to D14."""
    check_all(SOURCES, unknown_decisions)


def test_importing_the_library_loads_next_to_nothing() -> None:
    code = "import sys, reg4rec; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "polars", "triton", "cupy", "tyro", "sklearn"} & set(done.stdout.split())
