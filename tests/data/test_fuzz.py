"""Readers and loaders meet arbitrary files: only the library's own errors come out.

Each example starts from valid files and damages one: bytes are changed, cut, repeated or replaced, or a value of a
JSON header is changed. The examples are the same in every run.
"""

import contextlib
import gzip
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reg4rec.data import Dataset, ItemViews, ViewConfig, load_dataset, read_interactions, synthetic_shop
from reg4rec.data.shop import SyntheticShop
from reg4rec.errors import InputError
from reg4rec.model import ModelConfig, Reg4RecModel
from reg4rec.recommend import Recommender
from reg4rec.run import Run
from reg4rec.tokenizer import Tokenizer, TokenizerConfig, fit_tokenizer

LOG = {"user_id": ["a", "a", "b", "b"], "item_id": [1, 2, 1, 3], "timestamp": [1, 2, 3, 4]}
ITEMS = {"item_id": [1, 2, 3], "title": ["x", "y", "z"], "categories": ["A > B", "A", None]}
REVIEW = {"reviewerID": "a", "asin": "B1", "unixReviewTime": 5}
SEEDS: dict[str, dict[str, Any]] = {
    "csv": {"log.csv": pl.DataFrame(LOG).write_csv(), "items.csv": pl.DataFrame(ITEMS).write_csv()},
    "tsv": {"log.tsv": pl.DataFrame(LOG).write_csv(separator="\t"), "items.csv": pl.DataFrame(ITEMS).write_csv()},
    "jsonl": {"log.jsonl": pl.DataFrame(LOG).write_ndjson(), "items.jsonl": pl.DataFrame(ITEMS).write_ndjson()},
    "gzip": {"log.csv.gz": pl.DataFrame(LOG).write_csv(), "items.csv.gz": pl.DataFrame(ITEMS).write_csv()},
    "parquet": {"log.parquet": pl.DataFrame(LOG), "items.parquet": pl.DataFrame(ITEMS)},
    "atomic": {
        "s.inter": "user_id:token\titem_id:token\ttimestamp:float\na\t1\t5\nb\t2\t6\n",
        "s.item": "item_id:token\ttitle:token_seq\tclass:token_seq\n1\tToy Story\tA B\n",
    },
    "amazon": {
        "reviews_X_5.json": json.dumps(REVIEW) + "\n",
        "meta_X.json": "{'asin': 'B1', 'title': 'x', 'categories': [['A', 'B']]}\n",
    },
    "amazon-2023": {
        "X.csv": "user_id,parent_asin,rating,timestamp\na,B1,5.0,77\n",
        "meta_X.jsonl": json.dumps({"parent_asin": "B1", "title": "x", "store": None, "categories": ["A"]}) + "\n",
    },
    "movielens-1m": {"ratings.dat": "1::1::5::7\n1::2::3::8\n", "movies.dat": "1::A (1999)::X|Y\n2::B::X\n"},
    "movielens-20m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,5,7\n",
        "movies.csv": 'movieId,title,genres\n1,"A, B (1999)",X|Y\n',
    },
    "movielens-100k": {"u.data": "1\t1\t5\t7\n", "u.item": "1|A (1999)|x||u|" + "|".join("0" * 18) + "|1\n"},
    "sequences": {"sequences.txt": "u 1 2\nv 2\n"},
    "prepared": {
        "sequences.txt": "u 1 2\nv 2\n",
        "items.jsonl": "".join(
            json.dumps({"item_id": i, "asin": f"B{i}", "title": "x", "categories": [["A"]]}) + "\n" for i in (1, 2)
        ),
    },
}
# One of these numbers would be enough to ask for a model of terabytes; loaders must notice.
ODD_VALUES: list[Any] = [None, True, -1, 0, 7, 2**40, 1.5, "x", "", [], [1], ["x", None], {}, {"a": 1}, [[[]]]]
VALUES = st.sampled_from(ODD_VALUES)
DAMAGE = st.tuples(st.integers(0, 5), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6), VALUES)
ODD = (b"", b"\x00", b"\xff\xfe", b"\n", b'"', b"[" * 3000, b"PAR1", b"\x1f\x8b\x08", b"NaN", b"9" * 40)
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write_seed(folder: Path, files: dict[str, Any]) -> None:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())


def damage(path: Path, how: tuple[int, float, bytes, Any]) -> None:
    kind, place, new, value = how
    old = path.read_bytes()
    at = int(place * len(old))
    if path.suffix == ".json" and kind in (3, 4, 5) and old.startswith(b"{\n"):
        path.write_text(json.dumps(_changed(json.loads(old), place, value)))
        return
    odd = ODD[int(place * len(ODD))]
    forms = (old[:at], old[:at] + new + old[at + len(new) :], old[:at] + new + old[at:], odd, old[:at] + odd + old[at:])
    path.write_bytes((*forms, old + old)[kind])


def _changed(header: dict[str, Any], place: float, value: Any) -> dict[str, Any]:
    """The header with one value, at any depth, replaced or (by True) removed."""
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(header)
    node, key = spots[int(place * len(spots))]
    if value is True:
        del node[key]
    else:
        node[key] = value
    return header


def survive(read: Callable[[], Any]) -> None:
    """Run a reader: it must return, or raise one of our errors."""
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        read()


def read_folder(folder: Path) -> Dataset:
    files = sorted(folder.iterdir())
    log = next((file for file in files if file.name.startswith("log")), None)
    if log is None:
        return load_dataset(folder)
    items = next(file for file in files if file.name.startswith("items"))
    return read_interactions(log, items, min_interactions=1)


@pytest.mark.parametrize("kind", SEEDS)
@FUZZ
@given(st.integers(0, 1), DAMAGE)
def test_readers(tmp_path_factory: pytest.TempPathFactory, kind: str, which: int, how: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    write_seed(folder, SEEDS[kind])
    try:
        damage(sorted(folder.iterdir())[which % len(SEEDS[kind])], how)
        survive(lambda: read_folder(folder))
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shop() -> SyntheticShop:
    return synthetic_shop(num_users=30, num_items=20, num_facets=3)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, shop: SyntheticShop) -> Path:
    """One of each folder that the library writes."""
    root = tmp_path_factory.mktemp("artifacts")
    shop.with_vectors({"image": shop.facets_IX}).save(root / "dataset")
    views = ViewConfig(text_dim=6, collaborative_dim=4)
    ItemViews.fit(shop, views).save(root / "views")
    sizes = {"num_codebooks": 2, "codebook_size": 4, "codeword_dim": 4, "hidden_dim": 8, "epochs": 3}
    config = TokenizerConfig(kind="mpq", autoencoder_epochs=1, views=views, **sizes)  # type: ignore[arg-type]
    tokenizer = fit_tokenizer(shop, config, Run(progress=False))
    tokenizer.save_pretrained(root / "tokenizer")
    shape = {"dim": 8, "num_heads": 2, "ffn_dim": 8, "num_blocks": 1, "num_items": shop.num_items}
    model = Reg4RecModel(ModelConfig(2, 4, len(shop.items.category_names), **shape))  # type: ignore[arg-type]
    model.save_pretrained(root / "model")
    Recommender(model, tokenizer, shop.items, device="cpu").save_pretrained(root / "recommender")
    return root


LOADERS: dict[str, Callable[[Path], Any]] = {
    "dataset": Dataset.load,
    "views": ItemViews.load,
    "tokenizer": Tokenizer.from_pretrained,
    "model": Reg4RecModel.from_pretrained,
    "recommender": lambda folder: Recommender.from_pretrained(folder, device="cpu"),
}


@pytest.mark.parametrize("kind", LOADERS)
@FUZZ
@given(st.floats(0, 1, exclude_max=True), DAMAGE)
def test_loaders(artifacts: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, which: float, how: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    shutil.copytree(artifacts / kind, folder)
    try:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        damage(files[int(which * len(files))], how)
        survive(lambda: LOADERS[kind](folder))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", LOADERS)
def test_each_file_is_needed_or_not_missed(artifacts: Path, tmp_path: Path, kind: str) -> None:
    names = [file.relative_to(artifacts / kind) for file in (artifacts / kind).rglob("*") if file.is_file()]
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(artifacts / kind, folder)
        (folder / name).unlink()
        survive(lambda folder=folder: LOADERS[kind](folder))  # type: ignore[misc]
