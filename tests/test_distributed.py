"""Several processes as one run: the loss curve of one process, checkpoints of any number, and a process that dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reg4rec import distributed
from reg4rec.cli import main
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.loop import LoopConfig
from reg4rec.model import Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.tokenizer import Tokenizer
from reg4rec.train import pretrain
from tests import group

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
SECONDS = 300
"""a test waits at most this long for processes"""
ONE_USER = 1 / 31
"""how much a metric changes if one validation user is ranked differently"""

pytestmark = pytest.mark.filterwarnings("ignore:reg4rec align")


def in_two(folder: Path, out: Path, *tasks: str) -> subprocess.CompletedProcess[str]:
    """Two processes, as `torchrun --standalone --nproc-per-node 2` starts them, do one task after the other."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, group.__file__, str(folder), str(out), *tasks]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, check=False)


def rows_of(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


def check_same_curve(
    found: Path, expected: Path, tolerance: float = 1e-9, without: tuple[str, ...] = (), validation: float = 1e-9
) -> None:
    rows, wanted = rows_of(found), rows_of(expected)
    assert len(rows) == len(wanted) > 4
    for row, other in zip(rows, wanted, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - set(without):
            near = validation if name.startswith("validation") else tolerance
            assert row[name] == pytest.approx(other[name], rel=tolerance, abs=near), (name, row["step"])


@pytest.fixture(scope="module")
def folder(
    shop: SyntheticShop, tokenizer: Tokenizer, token_model: Reg4RecModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("group")
    shop.save(folder / "data")
    tokenizer.save_pretrained(folder / "tokenizer")
    recommender = Recommender(token_model, tokenizer, shop.items, device="cpu").with_search(prune_threshold=None)
    recommender.save_pretrained(folder / "recommender")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run of one process that all others are compared with."""
    group.whole(folder, folder / "alone")
    return folder / "alone"


@pytest.fixture(scope="module")
def together(folder: Path) -> Path:
    """The runs of two processes, started once for all tests, since starting takes longest."""
    out = folder / "together"
    with pytest.raises(group.Stopped):
        group.whole(folder, out / "sharded", killed_at=9)
    done = in_two(folder, out, "whole", "sharded", "weighed", "kept_fp8", "others", "printed")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(alone: Path, together: Path) -> None:
    check_same_curve(together / "whole", alone)


@pytest.mark.slow
def test_weights_of_events_are_those_of_one_process(folder: Path, together: Path, tmp_path: Path) -> None:
    group.weighed(folder, tmp_path)
    check_same_curve(together / "weighed", tmp_path)


@pytest.mark.slow
def test_what_one_process_began_two_finish(alone: Path, together: Path) -> None:
    check_same_curve(together / "sharded", alone)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_one_process_goes_on(folder: Path, alone: Path, tmp_path: Path) -> None:
    done = in_two(folder, tmp_path, "killed")
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    header = json.loads(max((tmp_path / "killed" / "checkpoints").glob("step-*/checkpoint.json")).read_text())
    assert header["step"] == 9
    group.whole(folder, tmp_path / "killed")
    check_same_curve(tmp_path / "killed", alone)


@pytest.mark.slow
def test_weights_kept_in_fp8_follow_those_that_are_cut(together: Path) -> None:
    assert rows_of(together / "kept_fp8")[-1]["fp8_not_finite"] == 0


@pytest.mark.slow
def test_tokens_alignment_and_evaluation_are_those_of_one_process(folder: Path, together: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", together / "others"
    group.others(folder, one)
    check_same_curve(two / "tokenizer", one / "tokenizer", 1e-3)
    codes_IM = [Tokenizer.from_pretrained(out / "tokenizer" / "tokenizer").codes_IM for out in (one, two)]
    assert (codes_IM[0] == codes_IM[1]).float().mean() > 0.99
    # the anchor has weight 0: its draws differ before its first loss. The order of sums decides near ties between
    # beams, which changes the rewards of two of the 333 users of a batch
    check_same_curve(two / "align", one / "align", 7e-3, ("anchor_loss",), validation=ONE_USER)
    reports = [json.loads((out / "metrics.json").read_text())["rows"] for out in (one, two)]
    for row, other in zip(*reports, strict=True):
        assert row["metrics"] == pytest.approx(other["metrics"], abs=1e-12)
        assert row["extra"] == pytest.approx(other["extra"], abs=1e-12)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.mark.slow
def test_the_processes_that_are_left_say_that_one_is_gone(folder: Path, tmp_path: Path) -> None:
    """Without torchrun's agent, which would end them; on another machine there is none."""
    command = [sys.executable, "-m", "reg4rec.cli", "pretrain", "--data", str(folder / "data"), "--device", "cpu"]
    command += ["--tokens", str(folder / "tokenizer"), "--out", str(tmp_path), "--size", "tiny", "--log-every", "1"]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(command, env=ENVIRONMENT | place | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
    os.kill(processes[1].pid, signal.SIGKILL)
    _, said = processes[0].communicate(timeout=SECONDS)
    processes[1].communicate(timeout=SECONDS)
    assert processes[0].returncode == 2
    (sentence,) = [line for line in said.splitlines() if line.startswith("reg4rec:")]
    assert "another process of this run is gone" in sentence
    assert "process 0 of 2 found:" in sentence


@pytest.mark.slow
def test_a_group_prints_once(together: Path) -> None:
    out = together / "printed"
    assert (out / "0.txt").read_text().count("reg4rec") == 1
    assert (out / "1.txt").read_text() == ""
    assert json.loads((out / "metrics.json").read_text())["card"]["users"] == 60


def test_what_is_for_one_process_is_refused_in_a_group(
    shop: SyntheticShop, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "is_first", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main(["info"])
    assert "use torchrun for fit, its stages and evaluate only" in capsys.readouterr().err
    with pytest.raises(InputError, match="precision is 'ladq'"):
        pretrain(shop, tokenizer, precision="ladq")
    with pytest.raises(InputError, match="parallel is 'both'; it must be ddp or fsdp"):
        LoopConfig(parallel="both")  # type: ignore[arg-type]
