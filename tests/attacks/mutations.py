"""Damage a random file of a folder and use the folder: the result must be the same, or an InputError."""

import contextlib
import functools
import io
import json
import random
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reg4rec import load_dataset
from reg4rec.baselines import SASRec, SASRecConfig
from reg4rec.cli import main
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.storage import sha256_of
from reg4rec.tokenizer import Tokenizer
from tests.attacks.kills import Operations
from tests.attacks.workload import SHAPE, TASKS, Material, child, scratch

__all__ = ["attack"]

HISTORIES = [["item1", "item4"], [], ["item7", "item2", "item9"]]
PATIENCE = 60


def _dataset(folder: Path) -> Any:
    return load_dataset(folder).fingerprint()


def _tokens(folder: Path) -> Any:
    tokenizer = Tokenizer.from_pretrained(folder)
    return tokenizer.codes_IM.tolist(), tokenizer.describe(), tokenizer.path_cosines().tolist()


def _recommendations(folder: Path) -> Any:
    recommender = Recommender.from_pretrained(folder, device="cpu")
    exact = recommender.recommend(HISTORIES, k=5, return_paths=True)
    return exact.to_pydict(), recommender.with_search(retriever="paths").recommend(HISTORIES, k=5).to_pydict()


def _sasrec(folder: Path) -> Any:
    return SASRec.from_pretrained(folder, "cpu").recommend(HISTORIES, k=5).to_pydict()


def _of_run(folder: Path) -> Any:
    return _recommendations(folder / "recommender")


def _by_command(words: str, result: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The result of a command in a folder in which it had begun or finished."""

    def use(folder: Path) -> Any:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            try:
                main(words.format(o=folder.parent, m=folder.parents[1]).split())
            except SystemExit as error:
                if error.code != 2 or not said.getvalue().rpartition("reg4rec: ")[2]:
                    raise
                raise InputError(said.getvalue()) from None
        return result(folder)

    return use


def _parts(folder: Path) -> Any:
    own = [*folder.glob("part-*.parquet"), folder / "rejected.parquet"]  # there may be foreign files too
    recommended = json.loads((folder / "summary.json").read_text())["recommendations"]
    return {path.name: sha256_of(path) for path in own}, recommended


PRETRAIN = (
    f"pretrain --data {{m}}/data --tokens {{m}}/tokens/tokenizer --out {{o}}/model {SHAPE} --epochs 2 "
    "--checkpoint-seconds 0"
)
USES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "dataset": ("data", "", _dataset),
    "tokenizer": ("tokens/tokenizer", "tokens-b/tokenizer", _tokens),
    "recommender": ("model/recommender", "model-b/recommender", _recommendations),
    "sasrec": ("sasrec", "", _sasrec),
    "finished run": ("model", "model-b", _by_command(PRETRAIN, _of_run)),
    "begun run": ("begun/model", "model-b", _by_command(PRETRAIN, _of_run)),
    "job": ("recs", "", _by_command(TASKS["recommend"].words, _parts)),
}
"""By kind of artifact: its place in the material, the place of another of its kind, and how it is used."""


def _mutated(draw: random.Random, content: bytes) -> bytes:
    """Some bytes changed, removed or inserted, or all of them removed."""
    place = draw.randrange(len(content) + 1)
    other = min(len(content), place + draw.choice((1, 2, 8, 64, 1024)))
    kind = draw.randrange(8)
    if kind == 0 and place < len(content):
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + draw.randbytes(other - place) + content[other:]
    if kind == 2:
        return content[:place] + bytes(other - place) + content[other:]
    return (content[:place], b"", content[:place] + content[other:], content + content, content[::-1])[max(0, kind - 3)]


def _changed(draw: random.Random, value: Any) -> Any:
    """JSON with one value changed, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.15:
            return {key: inner for key, inner in value.items() if key != name}
        return value | {name: _changed(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(draw, value[place]), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.5:
        return draw.choice((value + 1, -value, value * 2, value + 1e-9, 2**31, 2**64, float("nan"), 1e300))
    return draw.choice((None, True, False, 0, -1, 1.5, "", "x", [], {}, [value], {"a": value}, "../" * 5))


def _mutate(draw: random.Random, folder: Path, sibling: Path | None) -> str:
    """Damage one file of a folder; returns a description."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw.choice(files)
    place, kind = path.relative_to(folder), draw.random()
    content = path.read_bytes()
    if kind < 0.08 and sibling is not None and (sibling / place).is_file():
        shutil.copyfile(sibling / place, path)
        return f"{place} of another folder"
    if kind < 0.14:
        path.unlink()
        return f"{place} removed"
    if kind < 0.20:
        other = draw.choice(files)
        path.write_bytes(other.read_bytes())
        return f"{place} replaced by {other.relative_to(folder)}"
    if kind < 0.24:
        (path.parent / draw.choice(("part-00099.parquet", "index.safetensors", "more.json"))).write_bytes(content)
        return f"a file more beside {place}"
    if kind < 0.55 and path.suffix == ".json":
        path.write_text(json.dumps(_changed(draw, json.loads(content))))
        return f"{place} with another entry"
    path.write_bytes(_mutated(draw, content))
    return f"{place} damaged"


class _HungError(Exception):
    pass


def _hang(*_: Any) -> None:
    raise _HungError


def _verdict(use: Callable[[Path], Any], folder: Path, expected: Any) -> str:
    """The verdict: same, refused, or a description of the fault."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return "same" if use(folder) == expected else "another answer"
    except InputError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def _some(material: Path, kind: str, count: int, seed: int) -> None:
    """Attack one kind of folder and print verdicts and faults as JSON."""
    draw = random.Random(f"{seed} {kind}")
    place, other, use = USES[kind]
    source, sibling = material / place, material / other if other else None
    with scratch() as clean:
        copy = _copied(source, clean, material)
        expected = use(copy)
    counts, faults = Counter[str](), []
    for number in range(count):
        with scratch() as out:
            copy = _copied(source, out, material)
            what = _mutate(draw, copy, sibling)
            verdict = _verdict(use, copy, expected)
            counts[verdict if verdict in ("same", "refused") else "fault"] += 1
            if verdict not in ("same", "refused"):
                faults.append(f"{kind}, mutation {number}: {what}: {verdict}")
    print("\n" + json.dumps({"counts": counts, "faults": faults}))


def _copied(source: Path, out: Path, material: Path) -> Path:
    """A copy of the artifact, with links to the material where a command looks for it."""
    for entry in material.iterdir():
        (out / entry.name).symlink_to(entry)
    copy = out / "o" / source.name
    shutil.copytree(source, copy)
    return copy


def prepare(material: Material) -> None:
    """Make what the material lacks: the result of a job, a SASRec, a run that was killed."""
    folder = material.folder

    def fit_sasrec() -> None:
        config = SASRecConfig(dim=16, ffn_dim=16, loop=LoopConfig(epochs=1))
        SASRec.fit(load_dataset(folder / "data"), config, Run(device="cpu", progress=False)).save_pretrained(
            folder / "sasrec"
        )

    def begin_a_run() -> None:
        sys.addaudithook(Operations(150))
        main(PRETRAIN.format(m=folder, o=folder / "begun").split())

    for work, status in (
        (lambda: TASKS["recommend"].run(material, folder), 0),
        (fit_sasrec, 0),
        (begin_a_run, -signal.SIGKILL),
    ):
        ended = child(work)
        assert ended.status == status, ended.said
    assert len(list((folder / "begun" / "model" / "checkpoints").glob("step-*"))) == 2


def attack(material: Material, mutations: int, seed: int = 0) -> dict[str, Any]:
    """Spread the mutations over all kinds of folders; returns how they ended, and the faults."""
    prepare(material)
    totals, faults = Counter[str](), []
    for number, kind in enumerate(USES):
        share = mutations * (number + 1) // len(USES) - mutations * number // len(USES)
        done = 0
        while done < share:  # a crash loses only the rest of one batch
            some = min(200, share - done)
            ended = child(functools.partial(_some, material.folder, kind, some, seed + done), patience=3600)
            lines = [line for line in ended.said.splitlines() if line.startswith('{"counts"')]
            if ended.status != 0 or not lines:
                faults.append(f"{kind}, {some} mutations from seed {seed + done}: status {ended.status}: {ended.said}")
            else:
                found = json.loads(lines[-1])
                totals.update({f"{kind}: {verdict}": n for verdict, n in found["counts"].items()})
                faults += found["faults"]
            done += some
    return {"mutations": mutations, "verdicts": dict(totals), "faults": faults}
