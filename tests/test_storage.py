"""Artifacts on disk: the old one or the new one, never half; damaged files are named."""

import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from reg4rec import writing
from reg4rec.errors import InputError
from reg4rec.storage import new_header, read_header, read_json, read_tensors, write_header, write_json, write_tensors
from reg4rec.writing import atomic_file, atomic_folder, sweep


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def stop_half_way(writing: AbstractContextManager[Path], error: type[BaseException], *inner: str) -> None:
    with writing as fresh:
        fresh.joinpath(*inner).write_text("half")
        raise error


def test_a_folder_appears_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with atomic_folder(target, "a.txt") as fresh:
        (fresh / "a.txt").write_text("new")
        assert not target.exists()
    assert tree(tmp_path) == {"deep/artifact/a.txt": "new"}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "artifact", "a.txt", ["*.part"]) as fresh:
            (fresh / "a.txt").write_text(name)
            (fresh / f"{name}.part").write_text(name)
    assert tree(tmp_path) == {"artifact/a.txt": "new", "artifact/new.part": "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("there", [["b.txt"], ["a.txt", "mine.csv"], ["a.txt", "more/b.txt"]], ids=str)
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "artifact" / name).write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(InputError, match=r"artifact holds other files \(.*, which would be lost"),
        atomic_folder(tmp_path / "artifact", "a.txt") as fresh,
    ):
        (fresh / "a.txt").write_text("new")
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_link_to_a_folder_stays_one_and_the_present_folder_is_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "link", "a.txt") as fresh:
        (fresh / "a.txt").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "a.txt").read_text() == "new"
    monkeypatch.chdir(tmp_path / "disk")
    for place in (".", ".."):
        with pytest.raises(InputError, match="is the current folder"), atomic_folder(place, "a.txt") as fresh:
            (fresh / "a.txt").write_text("newer")
    assert (tmp_path / "disk" / "a.txt").read_text() == "new"


def test_tensors_have_the_permissions_of_other_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    with atomic_folder(tmp_path / "artifact", "a.txt") as fresh:
        (fresh / "a.txt").write_text("old")
    with pytest.raises(error):
        stop_half_way(atomic_folder(tmp_path / "artifact", "a.txt"), error, "a.txt")
    assert tree(tmp_path) == {"artifact/a.txt": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_an_error_leaves_no_folder_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "artifact", "a.txt"):
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text("mine")
    with pytest.raises(InputError, match="a file of that name exists"), atomic_folder(tmp_path / "artifact", "a.txt"):
        pytest.fail("the block must not run")
    with (
        pytest.raises(InputError, match=r"artifact.* is not a folder"),
        atomic_folder(tmp_path / "artifact" / "inner", "a.txt"),
    ):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == {"artifact": "mine"}


def test_a_file_appears_when_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_file(tmp_path / "deep" / "a.txt") as fresh:
            fresh.write_text(content)
    assert tree(tmp_path) == {"deep/a.txt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error):
        stop_half_way(atomic_file(tmp_path / "a.txt"), error)
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_folder_in_the_place_of_a_file_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match="a folder of that name exists"):
        write_json(tmp_path / "a.json", {"x": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_survives_with_numbers_from_arrays(tmp_path: Path) -> None:
    value = {"name": "Zürich", "n": np.int64(3), "row": np.arange(2), "t": torch.tensor([0.5]), "at": Path("a/b")}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"name": "Zürich", "n": 3, "row": [0, 1], "t": [0.5], "at": "a/b"}
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json")["n"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x": 1', "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b"[1]", "contains a list where a JSON object"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json.*{message}"):
        read_json(tmp_path / "a.json")


def test_missing_files_name_the_folder_that_was_meant(tmp_path: Path) -> None:
    for read in (read_json, read_tensors):
        with pytest.raises(InputError, match=rf"is missing; is {tmp_path} the right folder"):
            read(tmp_path / "none")
    with pytest.raises(InputError, match="not readable JSON"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "b", "version": 1}, "has format 'b' where 'a' was expected"),
        ({"version": 1}, "has format None where 'a'"),
        ({"format": "a", "version": 3}, "has version 3, this reg4rec reads version 2; install a newer"),
        ({"format": "a"}, "has version None where the whole number 2 was expected"),
        ({"format": "a", "version": "1"}, "has version '1' where"),
        ({"format": "a", "version": True}, "has version True where"),
        ({"format": "a", "version": 0}, "has version 0 where"),
        ({"format": "a", "version": 1}, "has version 1, this reg4rec reads version 2; make it again"),
        ({"format": "a", "version": 2}, "has no checksums; make it again"),
    ],
)
def test_other_formats_and_versions_are_refused(tmp_path: Path, header: dict[str, object], message: str) -> None:
    (tmp_path / "h.json").write_text(json.dumps(header))
    with pytest.raises(InputError, match=message):
        read_header(tmp_path / "h.json", "a", 2)


def test_a_header_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_header(tmp_path / "h.json", new_header("a", 2, more=True, x=float("inf")))
    expected = {"format": "a", "version": 2, "files": {}, "more": True, "x": float("inf")}
    assert read_header(tmp_path / "h.json", "a", 2) == expected


def test_a_header_answers_for_itself_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("one.bin", "in/two.bin"):
        (tmp_path / name).write_bytes(b"whole")
    write_header(tmp_path / "h.json", new_header("a", 2, size=3), ["one.bin", "in/two.bin"])
    assert read_header(tmp_path / "h.json", "a", 2)["files"].keys() == {"one.bin", "in/two.bin"}
    (tmp_path / "in" / "two.bin").write_bytes(b"Whole")
    with pytest.raises(InputError, match=r"two\.bin is not the file that was saved with this folder"):
        read_header(tmp_path / "h.json", "a", 2)
    assert read_header(tmp_path / "h.json", "a", 2, later=["in/two.bin"])["size"] == 3
    (tmp_path / "in" / "two.bin").write_bytes(b"whole")
    (tmp_path / "one.bin").unlink()
    with pytest.raises(InputError, match=r"one\.bin is missing; is .* the right folder"):
        read_header(tmp_path / "h.json", "a", 2)
    text = (tmp_path / "h.json").read_text()
    (tmp_path / "h.json").write_text(text.replace('"size": 3', '"size": 4'))
    with pytest.raises(InputError, match=r"h\.json was changed after it was saved"):
        read_header(tmp_path / "h.json", "a", 2)
    assert read_header(tmp_path / "h.json", "a", 2, verify=False)["size"] == 4


def test_tensors_survive_whatever_their_strides(tmp_path: Path) -> None:
    base = torch.arange(6).view(2, 3)
    tensors = {"plain": base, "turned": base.T, "alias": base, "none": torch.empty(0, 2), "half": torch.ones(2).half()}
    write_tensors(tmp_path / "t.safetensors", tensors)
    found = read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"x": torch.arange(100)})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 64):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"t\.safetensors is not a readable safetensors file"):
            read_tensors(path)


def left_behind(folder: Path, name: str, kind: str = "tmp") -> Path:
    """A temporary folder as a killed writer leaves it."""
    left = folder / f".{name}.0123abcd.{kind}"
    left.mkdir()
    (left / "a.txt").write_text("left")
    return left


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept where folders cannot be locked")
def test_what_a_killed_writer_left_goes_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    other = left_behind(tmp_path, "other")
    with atomic_folder(tmp_path / "artifact", "a.txt") as living:
        (living / "a.txt").write_text("living")
        left = left_behind(tmp_path, "artifact")
        with atomic_folder(tmp_path / "artifact", "a.txt") as fresh:
            (fresh / "a.txt").write_text("first")
        assert not left.exists()
        assert (living / "a.txt").exists()
    assert tree(tmp_path) == {".other.0123abcd.tmp/a.txt": "left", "artifact/a.txt": "living"}
    for write in (lambda: write_json(tmp_path / "other", {}), lambda: sweep(tmp_path)):
        write()
        assert not other.exists()
        other = left_behind(tmp_path, "other")


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept where folders cannot be locked")
def test_if_names_cannot_be_exchanged_an_old_folder_gets_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_exchanged", lambda one, other: False)
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "artifact", "a.txt") as fresh:
            (fresh / "a.txt").write_text(name)
    assert tree(tmp_path) == {"artifact/a.txt": "new"}
    (tmp_path / "artifact").rename(tmp_path / ".artifact.0123abcd.old")  # a writer was killed between two renames
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "artifact", "a.txt"):
        raise ValueError("stop")
    assert tree(tmp_path) == {"artifact/a.txt": "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are not exchanged")
@pytest.mark.parametrize("replaces", [False, True])
def test_files_are_synced_to_disk_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    flushed: list[str] = []
    there: list[set[str]] = []

    def flush(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        there.append(set(tree(tmp_path)))

    if replaces:
        with atomic_folder(tmp_path / "artifact", "a.txt") as fresh:
            (fresh / "a.txt").write_text("old")
    before = set(tree(tmp_path))
    monkeypatch.setattr(os, "fsync", flush)
    with atomic_folder(tmp_path / "artifact", "a.txt") as fresh:
        (fresh / "a.txt").write_text("new")
        write_json(fresh / "b.json", {})
        assert flushed == []
    assert sorted(flushed[:2]) == ["a.txt", "b.json"]
    assert flushed[2:] == [fresh.name, tmp_path.name]
    assert not any(name.startswith("artifact") for name in there[2] - before)
    assert tree(tmp_path)["artifact/a.txt"] == "new"
    flushed.clear()
    write_json(tmp_path / "c.json", {})
    assert flushed == ["c.json", tmp_path.name]
