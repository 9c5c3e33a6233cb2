"""A file system with no room left: every writer says so, leaves what was there, and leaves nothing else."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from reg4rec.batch.job import recommend_to_folder
from reg4rec.checkpoints import Progress, save_checkpoint
from reg4rec.cli import main
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, evaluate
from reg4rec.pictures import save_picture
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer

PAGE = os.sysconf("SC_PAGESIZE")
FILLER = "filler"
KINDS = ("dataset", "tokenizer", "model", "recommender", "metrics.json", "picture.png", "checkpoint")

Writer = Callable[[Path], object]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A separate file system of 16 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no command to mount a small file system")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def writers(shop: SyntheticShop, tokenizer: Tokenizer, recommender: Recommender) -> dict[str, Writer]:
    """Everything that the library writes, by name."""
    report = evaluate(Popularity.fit(shop), shop, max_users=20)
    module = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(module.parameters())
    return {
        "dataset": shop.save,
        "tokenizer": tokenizer.save_pretrained,
        "model": recommender.model.save_pretrained,
        "recommender": recommender.save_pretrained,
        "metrics.json": report.save,
        "picture.png": lambda path: save_picture(path, 4, 3, lambda figure: figure.text(0.5, 0.5, "a picture")),
        "checkpoint": lambda path: save_checkpoint(path, module, optimizer, Progress(step=1)),
    }


@contextmanager
def full(disk: Path, spare_pages: int) -> Iterator[None]:
    """Fill the disk, except for some free pages."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(file.tell() - spare_pages * PAGE)
    try:
        yield
    finally:
        (disk / FILLER).unlink()


def content(disk: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(disk.rglob("*")) if p.name != FILLER}


@pytest.mark.parametrize(
    ("kind", "spare_pages"),
    [
        (kind, pages) for kind in KINDS for pages in (0, 1) if (kind, pages) != ("metrics.json", 1)
    ],  # it fits into a page
)
def test_a_full_disk_is_reported_and_keeps_old_files(
    disk: Path, writers: dict[str, Writer], kind: str, spare_pages: int
) -> None:
    path = disk / kind
    writers[kind](path)
    before = content(disk)
    with full(disk, spare_pages):
        with pytest.raises(InputError, match=rf"^{path}\S* cannot be written: .*No space left on device") as refused:
            writers[kind](path)
        assert content(disk) == before
    assert ".tmp" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_only_file_system_is_reported_and_left_unchanged(
    disk: Path, writers: dict[str, Writer], kind: str
) -> None:
    path = disk / kind
    writers[kind](path)
    before = content(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(InputError, match=rf"^{path}\S* cannot be written: Read-only file system"):
            writers[kind](path)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert content(disk) == before


def test_a_run_on_a_full_disk_goes_on_when_there_is_room_again(
    disk: Path, shop: SyntheticShop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.save(disk / "data")
    out = disk / "run"
    command = (
        f"tokenize --data {disk / 'data'} --out {out} --num-codebooks 3 --codebook-size 8 --hidden-dim 16 "
        "--codeword-dim 8 --epochs 6 --autoencoder-epochs 2 --text-dim 16 --collaborative-dim 8"
    ).split()
    with full(disk, 8), pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert re.match(rf"reg4rec: {out}\S* cannot be written: .*No space left", capsys.readouterr().err.splitlines()[-1])
    main(command)
    assert Tokenizer.from_pretrained(out / "tokenizer").codes_IM.shape == (60, 3)
    assert not list(disk.rglob("*.tmp"))


def test_a_batch_job_on_a_full_disk_goes_on_when_there_is_room_again(disk: Path, recommender: Recommender) -> None:
    pq.write_table(pa.table({"items": [[f"item{i}"] for i in range(60)] * 5}), disk / "users.parquet")
    out = disk / "recommendations"
    with full(disk, 8), pytest.raises(InputError, match=rf"^{out} cannot be written: .*No space left on device"):
        recommend_to_folder(recommender, disk / "users.parquet", out, users_in_part=20)
    kept = sorted(out.glob("part-*.parquet"))
    assert recommend_to_folder(recommender, disk / "users.parquet", out, users_in_part=20)["users"] == 300
    assert len(kept) < len(list(out.glob("part-*.parquet"))) == 15
    assert not list(disk.rglob("*.tmp"))
