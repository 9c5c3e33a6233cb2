"""The command line: the stages in a chain through folders, and one sentence for every mistake."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

import reg4rec
from reg4rec.cli import main
from reg4rec.cli.answer import VARIANTS
from reg4rec.data import Dataset
from reg4rec.data.shop import SyntheticShop
from reg4rec.experiments import QUESTIONS
from reg4rec.recommend import Recommender

SMALL_TOKENIZER = (
    "--kind mpq --num-codebooks 3 --codebook-size 8 --codeword-dim 8 --hidden-dim 16 --epochs 6 --autoencoder-epochs 2 "
    "--text-dim 16 --collaborative-dim 8"
)
SMALL_MODEL = "--size tiny --epochs 1 --validation-users 20 --device cpu"
COLUMNS = "--user who --item what --time when"
PRETRAIN = f"pretrain --data ROOT/data --tokens ROOT/mpq/tokenizer --out ROOT/run {SMALL_MODEL}"
EVALUATE = "evaluate --model ROOT/run/recommender --data ROOT/data --device cpu"
RECOMMEND = "recommend --model ROOT/run/recommender --device cpu"
STAGES = {
    "prepare": f"data prepare ROOT/clicks.csv --items ROOT/goods.csv --out ROOT/data {COLUMNS} --title label "
    "--categories kind --min-interactions 2",
    "tokenize": f"tokenize --data ROOT/data --out ROOT/mpq {SMALL_TOKENIZER}",
    "pretrain": PRETRAIN,
    "evaluate": f"{EVALUATE} --out ROOT/metrics.json --max-users 50 --protocol filtered",
    "recommend": f"{RECOMMEND} --input ROOT/users.parquet --output ROOT/recs -k 4",
}


HUGE = 1 << 64


@dataclass(frozen=True)
class Chain:
    """The folder in which each command read what an earlier one wrote, and what they printed."""

    root: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def chain(shop: SyntheticShop, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Every stage once, from a CSV file of 200 users with unusual column names."""
    root = tmp_path_factory.mktemp("chain")
    write_tables(shop, root)
    return Chain(root, {name: printed_by(command, root) for name, command in STAGES.items()})


def write_tables(shop: SyntheticShop, root: Path) -> None:
    ids, titles = shop.items.ids.to_pylist(), shop.items.table["title"].to_pylist()
    clicks = [(f"u{u}", ids[i], t) for u in range(200) for t, i in enumerate(shop.sequences[u])]
    pl.DataFrame(clicks, schema=["who", "what", "when"], orient="row").write_csv(root / "clicks.csv")
    kinds = [" > ".join(path) for path in shop.items.table["categories"].to_pylist()]
    pl.DataFrame({"what": ids, "label": titles, "kind": kinds}).write_csv(root / "goods.csv")
    histories = {"user_id": ["u1", "u2", "u3"], "items": [[ids[0], ids[5]], [], [ids[7]]]}
    pl.DataFrame(histories, schema_overrides={"items": pl.List(pl.String)}).write_parquet(root / "users.parquet")


def words(command: str, root: Path) -> list[str]:
    return [word.replace("ROOT", str(root)) for word in command.split()]


def printed_by(command: str, root: Path) -> str:
    """What a command prints when it runs in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(words(command, root))
    return printed.getvalue().strip()


def test_prepared_data_is_what_the_files_say(chain: Chain, shop: SyntheticShop) -> None:
    data = Dataset.load(chain.root / "data")
    assert data.num_users == 200
    row = data.user_ids.to_pylist().index("u17")
    ids = data.items.ids.to_pylist()
    assert [ids[i] for i in data.sequences[row]] == [shop.items.ids[int(i)].as_py() for i in shop.sequences[17]]
    place = ids.index("item7")
    assert data.items.table["title"][place] == shop.items.table["title"][7]
    assert data.items.table["categories"][place] == shop.items.table["categories"][7]
    assert re.search(r"200 users, \d+ items, [\d,]+ interactions, \d+ categories", chain.printed["prepare"])


def test_each_stage_says_where_its_result_is(chain: Chain) -> None:
    for stage, folder in (("tokenize", "mpq/tokenizer"), ("pretrain", "run/recommender"), ("recommend", "recs")):
        assert chain.printed[stage].endswith(str(chain.root / folder))
        assert (chain.root / folder).is_dir()
    assert "3 tokens each of 8 codewords" in chain.printed["tokenize"]
    assert chain.printed["evaluate"].endswith(f"metrics: {chain.root / 'metrics.json'}")


def test_evaluation_is_written_to_a_file_and_the_console(chain: Chain) -> None:
    metrics = json.loads(Path(chain.root / "metrics.json").read_text())
    assert [row["name"] for row in metrics["rows"]] == ["popularity", "reg4rec"]
    assert metrics["card"]["protocol"] == "filtered"
    assert metrics["card"]["users"] == 50
    shown = f"{metrics['rows'][1]['metrics']['recall@10']:.4f}".removeprefix("0")
    assert f" {shown} ± " in chain.printed["evaluate"]


def test_evaluation_without_a_file_writes_none(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = printed_by(f"{EVALUATE} --max-users 20", chain.root)
    assert said.startswith("method ")
    assert "metrics:" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (STAGES["prepare"].replace("ROOT/data ", "ROOT/data-again "), "fingerprint"),
        (STAGES["tokenize"], "collision_rate"),
        (PRETRAIN, "search"),
        (f"{EVALUATE} --out ROOT/again.json --max-users 20", "rows"),
        (f"{RECOMMEND} --input ROOT/users.parquet --output ROOT/again", "users"),
        ("info", "backends"),
    ],
)
def test_standard_output_holds_json_alone(chain: Chain, command: str, key: str) -> None:
    assert key in json.loads(printed_by(f"{command} --json", chain.root))


def test_a_shop_is_fitted_by_one_command_that_goes_on(chain: Chain) -> None:
    columns = f"{COLUMNS} --title label --categories kind --min-interactions 2"
    small = "--codebook-size 8 --size tiny --epochs 1 --device cpu"
    command = f"fit --data ROOT/clicks.csv --items ROOT/goods.csv --out ROOT/fit {columns} {small}"
    shown = printed_by(command, chain.root)
    assert re.search(r"^clicks: 200 users, \d+ items, .* ROOT/fit/data$".replace("ROOT", str(chain.root)), shown, re.M)
    assert "4 tokens each of 8 codewords" in shown
    assert shown.endswith(f"recommender: {chain.root / 'fit' / 'recommender'}")
    again = json.loads(printed_by(f"{command} --json", chain.root))
    assert (
        again["rows"][1]["metrics"] == json.loads((chain.root / "fit/metrics.json").read_text())["rows"][1]["metrics"]
    )
    shown = printed_by("report ROOT/fit --out ROOT/fit.html", chain.root)
    assert shown.splitlines() == ["metrics", "tokenizer", "model", f"3 findings: {chain.root / 'fit.html'}"]
    page = (chain.root / "fit.html").read_text()
    figures = [f"{value:.4f}" for row in again["rows"] for value in row["metrics"].values()]
    told = [
        "<td>codebook_size</td>",
        "<td>loop.epochs</td>",
        "tokens each of 8 codewords",
        "Search for paths",
        "doctor",
    ]
    assert [words for words in (*figures, *told, "data:image/png") if words not in page] == []
    assert "<td>dropout</td>" not in page
    assert printed_by("report ROOT/fit/model --out ROOT/model.html", chain.root).startswith("model\n1 finding: ")
    prepared = json.loads(printed_by(f"fit --data ROOT/data --out ROOT/fit-data {small} --json", chain.root))
    assert prepared["rows"][1]["metrics"] == again["rows"][1]["metrics"]


def test_a_problem_of_the_data_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user_id,item_id,timestamp\nu1,i1,1\nu1,i2,2\n,i1,3\nu2,i1\n")
    command = [sys.executable, "-m", "reg4rec.cli", "data", "prepare", "clicks.csv", "--out", "data"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    warned = ("1 malformed lines left out", "rows left out because an id is missing")
    lines = zip(done.stderr.splitlines(), warned, strict=True)
    assert all(line.startswith(f"reg4rec: {of}") for line, of in lines)
    assert not any(of in done.stdout for of in warned)
    assert done.stdout.count("no user can be validated or tested") == 1  # last: another split may help


def test_recommendations_are_parquet_parts(chain: Chain) -> None:
    table = pl.read_parquet(chain.root / "recs" / "part-00000.parquet")
    assert table["user_id"].to_list() == ["u1"] * 4 + ["u2"] * 4 + ["u3"] * 4
    assert table["rank"].to_list() == [1, 2, 3, 4] * 3
    assert not set(table.filter(pl.col("user_id") == "u1")["item_id"]) & {"item0", "item5"}
    assert chain.printed["recommend"].startswith("3 users, 12 recommendations, 0 rows rejected")


def test_recommendations_for_a_dataset_or_a_file_of_clicks(chain: Chain) -> None:
    said = printed_by(f"{RECOMMEND} --data ROOT/data --output ROOT/of-data -k 2 --titles --format csv", chain.root)
    assert said.startswith("200 users, 400 recommendations, 0 rows rejected, 0 unknown history items")
    whole = pl.read_csv(chain.root / "of-data" / "part-00000.csv")
    assert whole.columns == ["user_id", "rank", "item_id", "title", "score", "source"]
    (chain.root / "stock.txt").write_text("item3\nitem4\nsold out\n")
    pl.DataFrame({"user_id": ["u1"], "item_id": ["item3"]}).write_csv(chain.root / "bought.csv")
    command = f"{RECOMMEND} --input ROOT/clicks.csv {COLUMNS} --output ROOT/of-clicks -k 9 --keep-seen"
    printed_by(f"{command} --candidates ROOT/stock.txt --exclude ROOT/bought.csv", chain.root)
    table = pl.read_parquet(chain.root / "of-clicks" / "part-00000.parquet")
    assert table.filter(pl.col("user_id") == "u1")["item_id"].to_list() == ["item4"]
    assert table.filter(pl.col("user_id") == "u2")["item_id"].sort().to_list() == ["item3", "item4"]
    assert table["user_id"].n_unique() == 200


def test_histories_of_unknown_items_end_in_one_sentence(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    for name, ids in (("numbers", [[1, 2], [3]]), ("half", [["item1", "i1", "i2"], []])):
        pl.DataFrame({"user_id": ["a", "b"], "items": ids}).write_parquet(chain.root / f"{name}.parquet")
    command = words(f"{RECOMMEND} --input ROOT/numbers.parquet --output ROOT/of-numbers -k 2", chain.root)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("reg4rec: 3 of 3 history items (100%) are not in the catalog")
    assert "--allow-unknown" in said
    main([*command, "--allow-unknown"])
    printed = capsys.readouterr()
    assert printed.err.startswith("reg4rec: 3 of 3 history items (100%) are not in the catalog; ids must be spelled")
    assert printed.out.startswith("0 users, 0 recommendations, 2 rows rejected, 3 unknown history items")
    main(words(f"{RECOMMEND} --input ROOT/half.parquet --output ROOT/of-half --json", chain.root))
    printed = capsys.readouterr()
    assert printed.err == f"reg4rec: {json.loads(printed.out)['warning']}\n"


def test_paths_are_searched_on_request(chain: Chain) -> None:
    rows = {}
    for retriever in ("exact", "paths"):
        command = f"{EVALUATE} --out ROOT/metrics-{retriever}.json --max-users 50 --retriever {retriever} --json"
        rows[retriever] = json.loads(printed_by(command, chain.root))["rows"][1]
    assert not rows["exact"]["extra"]
    assert 0 < rows["paths"]["extra"]["path_recall"] <= 1

    command = f"{RECOMMEND} --input ROOT/users.parquet --output ROOT/found-by-paths -k 4 --retriever paths"
    said = printed_by(f"{command} --return-paths", chain.root)
    assert re.search(r"^retriever paths; sources path .*; [\d,]+ paths pruned, [\d,]+ fallbacks$", said, re.M)
    table = pl.read_parquet(chain.root / "found-by-paths" / "part-00000.parquet")
    assert set(table["source"]) <= {"path", "relaxed", "tokens"}
    assert set(table.filter(pl.col("source") == "path")["path"].list.len()) <= {2, 3}
    assert re.search(r"^retriever exact; sources item score 100.0%$", chain.printed["recommend"], re.M)


def test_both_retrievers_are_measured_by_one_study(chain: Chain) -> None:
    command = "study retrievers --models ROOT/run/recommender --data ROOT/data --out ROOT/study --max-users 20"
    said = printed_by(f"{command} --device cpu --thetas 0.1", chain.root)
    assert said.endswith(str(chain.root / "study" / "retrievers.md"))
    for way in ("paths", "exact", "theta 0.1"):
        assert len(re.findall(rf"^\| {way} +\|", said, re.M)) == 2  # on validation and on test


def test_a_finished_stage_run_again_gives_the_same(chain: Chain) -> None:
    before = {p: p.read_bytes() for p in (chain.root / "run" / "recommender").rglob("*") if p.is_file()}
    lines = (chain.root / "run" / "metrics.jsonl").read_text()
    printed_by(PRETRAIN, chain.root)
    assert {p: p.read_bytes() for p in before} == before
    assert (chain.root / "run" / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("data prepare nowhere.csv --out ROOT/new", "there is no file nowhere.csv"),
        ("data prepare ROOT/clicks.csv --out ROOT/new", "has no column user_id"),
        ("data prepare ROOT/run/config.json --out ROOT/new", "config.json"),
        (f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --items ROOT/users.parquet", "has no column what"),
        (f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --min-interactions 999", "no interaction is left"),
        (
            f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --min-interactions 0",
            "--min-interactions is 0; give 1",
        ),
        (f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --max-malformed=-1", "--max-malformed is -1; give 0"),
        (
            f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --split time --test-from 2",
            "test from 2.0: quantiles must rise",
        ),
        (
            f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --split time --cut-unit timestamp "
            "--validation-from=-1",
            "--validation-from is -1.0; no interaction is earlier",
        ),
        (
            f"data prepare ROOT/clicks.csv --out ROOT/new {COLUMNS} --test-from 0.7",
            "--test-from is 0.7; it must be left out without --split time",
        ),
        (
            "data get ml-100k --out ROOT/new --cut-unit timestamp",
            "--cut-unit is 'timestamp'; it must be left out without --split time",
        ),
        (f"data prepare ROOT/clicks.csv --out ROOT/clicks.csv {COLUMNS}", "a file of that name exists"),
        ("data get ml-9k --out ROOT/new", "no dataset or folder 'ml-9k'"),
        ("tokenize --data nowhere --out ROOT/new", "no dataset or folder 'nowhere'"),
        ("tokenize --data ROOT/recs --out ROOT/new", "recs is not a dataset"),
        ("tokenize --data ROOT/data --out ROOT/new --codebook-size 4000", "--codebook-size is 4000"),
        ("pretrain --data ROOT/data --tokens ROOT/data --out ROOT/new", "tokenizer.json is missing"),
        ("pretrain --data ROOT/other --tokens ROOT/mpq/tokenizer --out ROOT/new", "fitted on another dataset"),
        (f"{PRETRAIN} --out ROOT/new --recipe paper", "tokens are of the recipe 'default', these settings of 'paper'"),
        (
            "align --model ROOT/run/recommender --data ROOT/data --out ROOT/new --recipe paper",
            "tokens are of the recipe 'default', these settings of 'paper'",
        ),
        ("fit --data ROOT/data --out ROOT/new --items ROOT/goods.csv", "which is not a file; leave out --items"),
        (f"fit --data ROOT/clicks.csv --out ROOT/mpq {COLUMNS}", "mpq holds other files ("),
        (f"{PRETRAIN} --seed 3", "holds a run with other settings (seed differ)"),
        (f"{PRETRAIN} --out ROOT/new --seed=-1", "--seed is -1; it must be from 0 to 2147483647"),
        (
            f"align --model ROOT/run/recommender --data ROOT/data --out ROOT/new --seed {HUGE}",
            f"--seed is {HUGE}; it must be from 0 to 2147483647",
        ),
        (f"{PRETRAIN} --out ROOT/new --seed {HUGE}", f"--seed is {HUGE}; it must be from 0 to 2147483647"),
        (f"{PRETRAIN} --out ROOT/clicks.csv", "a file of that name exists"),
        (
            "pretrain --data ROOT/data --tokens ROOT/run/recommender/tokenizer --out ROOT/run --no-resume",
            "which is in --out and would be removed by starting over; choose another folder for --out",
        ),
        (
            "align --data ROOT/data --model ROOT/run/recommender --out ROOT/run --no-resume",
            "run/recommender, which is in --out and would be removed by starting over",
        ),
        (f"{PRETRAIN} --out ROOT/new --device abacus", "device 'abacus' cannot be used"),
        (f"{EVALUATE} --model ROOT/run", "recommender.json is missing"),
        (f"{EVALUATE} --data ROOT/other", "their items are not the same"),
        (f"{EVALUATE} --out ROOT/recs --max-users 5", "a folder of that name exists"),
        (f"{EVALUATE} --max-users 0", "--max-users is 0; it must be 1 or more"),
        (f"{EVALUATE} --ks 0", "--ks are [0]; they must be one or more whole numbers from 1 up"),
        (f"{EVALUATE} --num-beams 0", "--num-beams must be at least 1"),
        (f"{EVALUATE} --num-beams 30", "--num-beams is 30, but no paths are searched; add --retriever paths"),
        (
            f"{RECOMMEND} --input ROOT/users.parquet --output ROOT/new -k 0",
            "-k is the number of items to recommend and must be at least 1, found 0",
        ),
        (f"{STAGES['recommend']} --keep-seen", "recs contains recommendations of another job (filter_seen differ)"),
        (f"{RECOMMEND} --input nowhere.parquet --output ROOT/new", "nowhere.parquet is missing"),
        (f"{RECOMMEND} --output ROOT/new", "recommend needs users from a file or a dataset; give --input or"),
        (f"{RECOMMEND} --input ROOT/users.parquet --data ROOT/data --output ROOT/new", "give --input or --data"),
        (
            f"{RECOMMEND} --input ROOT/clicks.csv --output ROOT/new",
            "no column user_id, item_id, timestamp; it has who,",
        ),
        (f"{RECOMMEND} --input ROOT/data/sequences.parquet --output ROOT/new", "not ids; give the dataset, --data"),
        (
            f"{RECOMMEND} --data ROOT/data --output ROOT/recs.csv",
            "format of the parts with --format csv or jsonl (format=)",
        ),
        (
            f"{RECOMMEND} --data ROOT/data --output ROOT/new --format csv --return-paths",
            "format csv cannot contain paths",
        ),
        (
            f"{RECOMMEND} --data ROOT/data --output ROOT/new --candidates ROOT/users.parquet",
            "has no column item_id; it",
        ),
        (f"{RECOMMEND} --input ROOT/recs/part-00000.parquet --output ROOT/new", "needs a column 'items'"),
        (f"{RECOMMEND} --model ROOT/mpq --input ROOT/users.parquet --output ROOT/new", "recommender.json is missing"),
    ],
)
def test_mistakes_get_one_sentence(
    chain: Chain, shop: SyntheticShop, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    if "ROOT/other" in command:
        shop.save(chain.root / "other")
    with pytest.raises(SystemExit) as stopped:
        main(words(command, chain.root))
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    sentence = re.split(r"[\r\n]", shown.strip())[-1]  # a progress bar may come before it
    assert sentence.startswith("reg4rec: ")
    assert said in sentence
    assert not (chain.root / "new").exists()
    assert not list(chain.root.rglob("*.tmp"))


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["fly"],
        ["pretrain"],
        ["recommend", "--wings", "2"],
        ["demo", "--epochs", "many"],
    ],
)
def test_unknown_commands_exit_with_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("demo --epochs 0", "--epochs is 0; it must be 1 or more"),
        ("fit --data d --out o --epochs 0", "--epochs is 0; it must be 1 or more"),
        (f"fit --data d --out o --seed {HUGE}", f"--seed is {HUGE}; it must be from 0 to 2147483647"),
        ("tokenize --data d --out o --recipe papr", "--recipe is 'papr'; it must be one of default, paper"),
        ("tokenize --data d --out o --codebook-size 0", "--codebook-size is 0; it must be 1 or more"),
        ("tokenize --data d --out o --text-dim=-1", "--text-dim is -1; it must be 0 or more"),
        ("tokenize --data d --out o --min-usage 3", "--min-usage is 3.0; it must be between 0 and 1"),
        ("pretrain --data d --tokens t --out o --epochs 0", "--epochs is 0; it must be 1 or more"),
        ("pretrain --data d --tokens t --out o --dropout 1.5", "--dropout is 1.5; it must be from 0 to below 1"),
        (
            "compare --data d --out o --seeds",
            "--seeds are one or more numbers from 0 to 2147483647, each once; found []",
        ),
        (f"demo --out o --seed {HUGE}", f"--seed is {HUGE}; it must be from 0 to 2147483647"),
        (f"tokenize --data d --out o --seed {HUGE}", f"--seed is {HUGE}; it must be from 0 to 2147483647"),
        (f"study corp --model m --data d --out o --seed {HUGE}", f"--seed is {HUGE}; it must be from 0 to 2147483647"),
        ("study retrievers --data d --out o --models", "--models is empty; give one or more recommender folders"),
        (
            f"study sizes --data d --out o --seeds {HUGE}",
            f"--seeds is ({HUGE},); it must be distinct numbers from 0 to 2147483647",
        ),
        ("study cold-start --data d --out o --items 1.5", "--items is 1.5; it must be above 0 and below 1"),
        ("compare --data d --out o --sasrec.loop.epochs 0", "--sasrec.loop.epochs is 0; it must be 1 or more"),
        ("compare --data d --out o --sasrec.num-heads 3", "--sasrec.num-heads is 3; it must be a divisor of dim / 2"),
    ],
)
def test_a_setting_out_of_range_is_named_as_it_was_typed(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"reg4rec: {said}\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("demo --epochs many", ["--epochs INT", "'many'"]),
        ("pretrain --data d --tokens t --out o --size huge", ["--size", "'huge'", "'tiny', 'small', 'base', 'large'"]),
        ("compare --data d --out o --methods chance", ["--methods", "'chance'", "'popularity', 'transitions'"]),
        ("evaluate --model m", ["--data STR", "the dataset that it was trained on"]),
        ("recommend --wings 2", ["Unrecognized options", "--wings"]),
        ("fly", ["there is no command 'fly'", "demo, fit, data, tokenize"]),
        ("study fly", ["there is no command 'study fly'", "cold-start, corp, retrievers, sampling, tokenizers"]),
    ],
)
def test_a_wrong_choice_is_named_with_the_allowed_ones(
    command: str, said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert [words for words in said if words not in shown] == []


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ([], ["demo", "fit", "data", "tokenize", "pretrain", "evaluate", "recommend", "compare", "study", "info"]),
        (["data"], ["get", "prepare"]),
        (["data", "get"], ["--out"]),
        (["data", "prepare"], ["--out", "--items", "--user", "--item", "--time", "--min-interactions"]),
        (["fit"], ["--data", "--items", "--out", "--recipe", "--align", "--user", "--split", "--epochs", "--resume"]),
        (["tokenize"], ["--data", "--out", "--num-codebooks", "--codebook-size", "--recipe", "--seed"]),
        (["pretrain"], ["--data", "--tokens", "--out", "--size", "--epochs", "--resume", "--seed", "--device"]),
        (["evaluate"], ["--model", "--data", "--split", "--protocol", "--retriever"]),
        (
            ["recommend"],
            ["--model", "--input", "--output", "-k", "--keep-seen", "--retriever", "--users-in-part", "--resume"],
        ),
        (["demo"], ["--out", "--epochs", "--seed"]),
        (["compare"], ["--data", "--out", "--methods", "--protocols", "--seeds", "--size", "--sasrec.loop.epochs"]),
        (["study"], ["cold-start", "corp", "retrievers", "sampling", "tokenizers"]),
        (["study", "cold-start"], ["--data", "--out", "--items", "--users", "--seed", "--reg4rec.pretrain.size"]),
        (["study", "corp"], ["--model", "--data", "--out", "--thetas", "--num-steps", "--max-users", "--clock"]),
        (["study", "retrievers"], ["--models", "--data", "--out", "--thetas", "--protocol", "--max-users"]),
        (["info"], ["--help", "[RUN]"]),
        (["explain"], ["--items", "(default: none)"]),
        (["report"], ["FOLDER [FOLDER ...]", "--out"]),
    ],
)
def test_help_names_the_flags(command: list[str], flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert [flag for flag in flags if flag not in shown] == []
    assert "options options" not in shown
    assert "(default: )" not in shown
    assert "config options" not in shown
    assert "--config." not in shown


def test_help_and_version_come_without_pytorch() -> None:
    for words, first in ((["--help"], "usage: reg4rec COMMAND"), (["--version"], f"reg4rec {reg4rec.__version__}")):
        code = (
            f"import sys; from reg4rec.cli import main\ntry: main({words})\nfinally: assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(first)
    large = {"torch", "sklearn", "polars", "numpy", "pyarrow"}
    code = (
        "import sys; from reg4rec.cli import main\ntry: main(['data', 'prepare', '--help'])\n"
        f"finally: assert not {large} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_question_is_a_command() -> None:
    assert tuple(QUESTIONS) == VARIANTS


def test_quiet_leaves_out_the_progress(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(f"{PRETRAIN} --out {tmp_path}/", chain.root)
    main([*command[:-1], str(tmp_path / "loud")])
    assert "pretrain 1/1  loss" in capsys.readouterr().err
    main([*command[:-1], str(tmp_path / "quiet"), "--quiet"])
    found = capsys.readouterr()
    assert found.err == ""
    assert str(tmp_path / "quiet") in found.out


def test_info_names_versions_backends_and_ops(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    shown = capsys.readouterr().out
    for word in ("reg4rec", "torch", "CPU threads", "cuda", "triton", "cpp", "eager", "beam_step", "js_divergence"):
        assert word in shown


def test_info_describes_a_tokenizer_that_took_no_steps(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--kind product-k-means --num-codebooks 3 --codebook-size 8 --text-dim 16 --collaborative-dim 8"
    said = printed_by(f"tokenize --data ROOT/data --out ROOT/opq {sizes}", chain.root)
    shown = printed_by("info ROOT/opq", chain.root)
    assert re.search(r"^state +finished$", shown, re.MULTILINE)
    assert f"product-k-means: {said.partition('tokenizer:')[0].strip()}" in shown
    assert json.loads(printed_by("info ROOT/opq --json", chain.root))["health"]["num_items"] == 60
    shutil.rmtree(chain.root / "opq" / "tokenizer")
    assert re.search(r"^state +no checkpoint yet$", printed_by("info ROOT/opq", chain.root), re.MULTILINE)
    with pytest.raises(SystemExit, match="2"):
        main(words("info ROOT/data", chain.root))
    assert "data is not a run folder (config.json is missing)" in capsys.readouterr().err


def test_info_describes_what_finds_the_items_of_a_recommender(chain: Chain) -> None:
    shown = printed_by("info ROOT/run/recommender", chain.root)
    assert re.search(r"^items +60, 0 of them removed$", shown, re.M)
    assert re.search(r"^retriever +exact \(chosen by the setting auto\)$", shown, re.M)
    assert re.search(r"^vectors +[\d.]+ MiB in float32, and an 8-bit copy of [\d.]+ MiB", shown, re.M)

    recommender = Recommender.from_pretrained(chain.root / "run" / "recommender", "cpu")
    recommender.remove_items(["item3"])
    recommender.with_search(retriever="paths").save_pretrained(chain.root / "searching")
    facts = json.loads(printed_by("info ROOT/searching --json", chain.root))
    assert facts["items"] == "60, 1 of them removed"
    assert facts["retriever"] == "paths"
    assert facts["index"].endswith("MiB of token lists")
    assert "vectors" not in facts


def test_a_real_process_says_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reg4rec.cli", "tokenize", "--data", "nowhere", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("reg4rec: there is no dataset or folder 'nowhere'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["study --help", "info --json", "tokenize --data nowhere --out nowhere"])
def test_output_that_nobody_reads_ends_quietly(command: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-m", "reg4rec.cli", *command.split()]
    with (tmp_path / "said").open("w") as said, os.fdopen(writer, "wb") as pipe:
        errors = pipe if "nowhere" in command else said
        done = subprocess.run(call, env=environment, stdout=pipe, stderr=errors, check=False)
    assert done.returncode == 141
    assert (tmp_path / "said").read_text() == ""


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), IsADirectoryError(21, "Is a directory")])
def test_errors_of_the_system_are_one_sentence(
    error: OSError, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise type(error)(*error.args, str(path))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(SystemExit, match="2"):
        main(["tokenize", "--data", "theirs", "--out", "o"])
    assert capsys.readouterr().err.startswith(f"reg4rec: theirs cannot be used: {error.strerror}; fix its")


REFUSED = (
    "is the current folder",
    "holds other files",
    "of that name exists",
    "is a file; ",
    "is not a folder",
    "its path",
)
WRITERS = (
    f"data prepare ROOT/clicks.csv --out OUT {COLUMNS}",
    f"fit --data ROOT/clicks.csv --out OUT {COLUMNS}",
    "demo --out OUT",
    f"tokenize --data ROOT/data --out OUT {SMALL_TOKENIZER}",
    f"{PRETRAIN} --out OUT",
    "align --model ROOT/run/recommender --data ROOT/data --out OUT",
    f"{RECOMMEND} --input ROOT/users.parquet --output OUT",
    f"{EVALUATE} --max-users 5 --out OUT",
    "explain --model ROOT/run/recommender --items item1 --html OUT",
    "report ROOT/study --out OUT",
    "compare --data ROOT/data --out OUT --methods popularity --seeds 0",
    "study corp --model ROOT/run/recommender --data ROOT/data --out OUT",
    "study retrievers --models ROOT/run/recommender --data ROOT/data --out OUT",
    "study cold-start --data ROOT/data --out OUT",
    "study sampling --data ROOT/data --tokens ROOT/mpq/tokenizer --out OUT",
    "study sizes --data ROOT/data --out OUT",
)


@pytest.mark.parametrize("command", WRITERS, ids=lambda command: " ".join(command.split()[:2]))
def test_no_command_writes_where_others_keep_their_files(
    command: str, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not into the root, the current folder or one above it, not among foreign files, and not over them."""
    here = tmp_path / "mine" / "below"
    here.mkdir(parents=True)
    (here / "notes.txt").write_text("mine")
    monkeypatch.chdir(here)
    (chain.root / "study").mkdir(exist_ok=True)
    for name in ("compare.json", "compare.md"):
        (chain.root / "study" / name).write_text('{"format": "reg4rec-comparison"}')
    root = sorted(entry.name for entry in Path("/").iterdir())
    for out in ("/", ".", "..", str(here), "notes.txt/in"):
        with pytest.raises(SystemExit, match="2"):
            main([word.replace("OUT", out) for word in words(command, chain.root)])
        said = capsys.readouterr().err.splitlines()[-1]
        assert any(reason in said for reason in REFUSED), said
    assert [path.name for path in here.parent.rglob("*")] == ["below", "notes.txt"]
    assert (here / "notes.txt").read_text() == "mine"
    assert sorted(entry.name for entry in Path("/").iterdir()) == root


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
@pytest.mark.parametrize("seconds", [0.3, 3.0], ids=["while it imports", "while it runs"])
def test_a_stopped_process_says_one_sentence_and_leaves_no_litter(
    number: signal.Signals, word: str, seconds: float, chain: Chain, tmp_path: Path
) -> None:
    command = f"tokenize --data ROOT/data --out {tmp_path / 'out'} {SMALL_TOKENIZER} --epochs 100000"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", "import reg4rec.cli as c; print('on', flush=True); c.main()"]
    process = subprocess.Popen(
        [*call, *words(command, chain.root)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    time.sleep(seconds)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == 128 + number, said
    assert said.splitlines()[-1] == f"reg4rec: {word}; run the same command again to resume from the last checkpoint"
    assert "Traceback" not in said or "Exception ignored" in said  # a destructor may swallow the first stop
    assert not list(tmp_path.rglob(".*"))


def test_a_swallowed_interrupt_is_raised_again(chain: Chain, tmp_path: Path) -> None:
    code = (
        "import os, signal, time, reg4rec.cli as c, reg4rec.cli.answer as a\n"
        "class Deaf:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "c.UNHEARD = 0.2\n"
        "def run(words):\n"
        "    Deaf()\n"
        "    print('on', flush=True)\n"
        "    began = time.monotonic()\n"
        "    while time.monotonic() < began + 50: pass\n"
        "a.run = run\n"
        "c.main([])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "on\n")
    assert done.stderr.splitlines()[-1].startswith("reg4rec: interrupted")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "out of memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory; "),
        (RuntimeError("can't start new thread"), "the system allows no more threads; "),
    ],
    ids=str,
)
def test_the_end_of_memory_or_threads_is_one_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(path: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "is_dir", exhausted)
    with pytest.raises(SystemExit, match="2"):
        main(["tokenize", "--data", "mine", "--out", "o"])
    assert capsys.readouterr().err.startswith(f"reg4rec: {sentence}")
