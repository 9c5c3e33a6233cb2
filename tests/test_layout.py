"""The layout of the library: which imports are allowed, what is never used, what every public name must have."""

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
GROUND = (
    *("errors", "forks", "progress", "writing", "storage", "settings", "statistics", "page", "pictures"),
    *("ops", "distributed", "run", "optimizer", "checkpoints", "loop", "kernels", "_C"),
)
ROOMS = (
    *("data", "tokenizer", "model", "search", "recommend", "batch", "evaluation", "precision", "train", "alignment"),
    *("recipes", "baselines", "experiments", "cli"),
)
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = sorted(
    path for folder in ("reg4rec", "kernels") for path in (ROOT / folder).rglob("*.py") if "csrc" not in path.parts
)
SOURCES = [path for path in SOURCES if not path.is_relative_to(ROOT / "reg4rec" / "kernels")]  # a link to kernels
MODULES = [path for path in SOURCES if path.is_relative_to(ROOT / "reg4rec")]


def names_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path, in_functions: bool = True) -> Iterator[str]:
    """The absolute names of all modules that a file imports, anywhere in it or only outside its functions."""
    package = module_of(path.with_name("__init__.py")).split(".")
    for node in nodes_of(ast.parse(path.read_text(encoding="utf-8")), in_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def nodes_of(node: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from nodes_of(child, in_functions)


def module_of(path: Path) -> str:
    """The name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("reg4rec", *parts) if parts[0] == "kernels" else parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The part of reg4rec that an import goes to; None for other packages and for reg4rec itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "reg4rec" and len(parts) > 1 else None


def reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """The module and everything that it imports, directly or through others."""
    found, left = {start}, [start]
    while left:
        new = arrows[left.pop()] - found
        found |= new
        left += new
    return found


def test_the_sources_are_found() -> None:
    rooms = {path.relative_to(ROOT / "reg4rec").parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == {*ROOMS, *GROUND, "__init__"} - {"kernels", "_C"}
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


def deep_imports(path: Path) -> Iterator[str]:
    """The parts of the kernels that a module imports; names in strings, for `importlib`, count too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = {name for name in (*imported(path), *named) if re.search(r"\breg4rec\.kernels\b", name)}
    allowed = r"reg4rec\.kernels\.\w+\.\w+" if names_of(path) == "reg4rec/ops.py" else r"$"
    yield from (f"reaches into {name}" for name in sorted(found) if not re.fullmatch(allowed, name))


def test_the_ops_alone_import_the_kernels_and_what_their_packages_export() -> None:
    check_all(MODULES, deep_imports)


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions do not count, those under TYPE_CHECKING do."""
    modules = {module_of(path): path for path in SOURCES}
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        named = {name if name in modules else name.rpartition(".")[0] for name in imported(path, in_functions=False)}
        arrows[module] = named & modules.keys() - {module}
    circles = [
        f"{module} -> {other}" for module in arrows for other in arrows[module] if module in reached(other, arrows)
    ]
    assert not circles, "\n".join(sorted(circles))


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


LETTERS_AT_HOME = {
    "AQ": r"reg4rec/model|kernels/(decoder_step|encode_histories|path_attention)",
    "RYZ": r"reg4rec/model|kernels/(panels|decoder_step|encode_histories|path_attention)",
    "J": r"reg4rec/(model|search|baselines|train)|kernels/(decoder_step|encode_histories)",
    "EH": r"reg4rec/tokenizer|kernels/mpq_quantize",
    "FG": r"reg4rec/alignment",
    "V": r"reg4rec/(data|tokenizer|recommend|evaluation|experiments|baselines)",
}
"""Shape letters that only these files may use: elsewhere they have another meaning."""


def wrong_letters(path: Path) -> Iterator[str]:
    legend = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Shape letters")[2]
    known = set(re.findall(r"\| ([A-Z]) \|", legend.partition("## Artifacts")[0]))
    homes = {letter: home for letters, home in LETTERS_AT_HOME.items() for letter in letters}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr"}.get(type(node), ""), "")
        suffix = re.fullmatch(r"_?[a-z][a-z0-9_]*_([A-Z][A-Za-z0-9]*)", name)
        for letter in filter(str.isupper, suffix[1] if suffix else ""):
            if letter not in known:
                yield f"has {name}, whose {letter} is not in the legend of docs/architecture.md"
            elif not re.match(homes.get(letter, ""), names_of(path)):
                yield f"has {name}, whose {letter} means something else"


def test_a_shape_letter_has_one_meaning() -> None:
    check_all(SOURCES, wrong_letters)


def test_importing_the_library_loads_next_to_nothing() -> None:
    code = "import sys, reg4rec; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "polars", "triton", "cupy", "tyro", "sklearn"} & set(done.stdout.split())
