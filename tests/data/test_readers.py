"""Public datasets in the layouts in which they are published."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from reg4rec.data import Dataset, load_dataset, read_interactions
from reg4rec.errors import InputError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def histories(dataset: Dataset) -> dict[Any, list[Any]]:
    ids, users = dataset.items.ids.to_pylist(), dataset.user_ids.to_pylist()
    return {user: [ids[i] for i in dataset.sequences[row]] for row, user in enumerate(users)}


REVIEWS = [("A1", "B3", 30), ("A2", "B2", 5), ("A1", "B1", 10), ("A1", "B2", 20)]
EXPECTED = {"A1": ["B1", "B2", "B3"], "A2": ["B2"]}


def old_reviews() -> str:
    return json_lines(
        [
            {"reviewerID": user, "asin": item, "helpful": [0, 1], "reviewText": 'it\'s "fine"', "overall": 5.0}
            | {"summary": "ok", "unixReviewTime": time, "reviewTime": "01 30, 2014"}
            for user, item, time in REVIEWS
        ]
    )


def test_amazon_2014_items_are_python_literals(tmp_path: Path) -> None:
    write(tmp_path / "reviews_Beauty_5.json.gz", old_reviews())
    metas = [
        {
            "asin": "B1",
            "title": "Johnson&#39;s &amp; 'Co'",
            "categories": [["Beauty", "Skin"], ["Gifts"]],
            "price": 1.5,
        },
        {"asin": "B2", "brand": "Acme", "categories": [["Beauty", "Hair"]], "related": {"also_bought": ["B1"]}},
        {"asin": "B9", "title": "never bought", "categories": [["Beauty"]]},
    ]
    write(tmp_path / "meta_Beauty.json.gz", "".join(f"{meta!r}\n" for meta in metas))
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.name == "Beauty"
    assert histories(dataset) == EXPECTED
    assert dataset.items.table["title"].to_pylist() == ["Johnson's & 'Co'", None, None]
    assert dataset.items.table["brand"].to_pylist() == [None, "Acme", None]
    assert dataset.items.category_names == ["Beauty > Skin", "Beauty > Hair"]
    assert dataset.card["items_not_described"] == 1
    assert dataset.times is not None
    assert dataset.times.tolist() == [10, 20, 30, 5]


def test_code_in_an_item_file_is_not_run(tmp_path: Path) -> None:
    write(tmp_path / "reviews_Beauty_5.json", old_reviews())
    bomb = f"{{'asin': __import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()}}\n"
    write(tmp_path / "meta_Beauty.json", bomb + "{'asin': 'B1', 'title': 'soap'}\n")
    with pytest.warns(UserWarning, match="meta_Beauty.json line 1 is no item"):
        dataset = load_dataset(tmp_path, min_interactions=1)
    assert not (tmp_path / "run").exists()
    assert dataset.card["malformed_lines"]["count"] == 1
    assert dataset.items.texts(("title",)) == ["soap", "", ""]


def test_amazon_2018_paths_end_before_markup(tmp_path: Path) -> None:
    write(tmp_path / "All_Beauty_5.json.gz", old_reviews())
    metas = [
        {"asin": "B1", "title": "soap", "category": ["Beauty", "Skin", "</span></span>", "x"], "brand": "Acme"},
        {"asin": "B1", "title": "soap again", "category": [], "brand": ""},
        {"asin": "B2", "title": "brush", "category": [], "brand": ""},
    ]
    write(tmp_path / "meta_All_Beauty.json.gz", json_lines(metas))
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert histories(dataset) == EXPECTED
    assert dataset.items.table["title"].to_pylist() == ["soap", "brush", None]
    assert dataset.items.table["categories"].to_pylist() == [["Beauty", "Skin"], [], None]
    assert dataset.card["source"]["release"] == "Amazon reviews 2018"


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl", ".csv.gz", ".csv"])
def test_amazon_2023_counts_in_milliseconds(tmp_path: Path, ending: str) -> None:
    if ".csv" in ending:
        rows = [f"{user},{item},5.0,{time * 1000}\n" for user, item, time in REVIEWS]
        text = "user_id,parent_asin,rating,timestamp\n" + "".join(rows)
    else:
        text = json_lines(
            [
                {"rating": 5.0, "title": "ok", "text": "", "images": [], "asin": "C" + item, "parent_asin": item}
                | {"user_id": user, "timestamp": time * 1000, "helpful_vote": 0, "verified_purchase": True}
                for user, item, time in REVIEWS
            ]
        )
    write(tmp_path / f"All_Beauty{ending}", text)
    metas: list[dict[str, Any]] = [
        {"main_category": "All Beauty", "title": "soap", "store": "Acme", "categories": ["Beauty", "Skin"]}
        | {"parent_asin": "B1", "details": {"Brand": "Other"}},
        {"main_category": None, "title": "brush", "store": None, "categories": [], "parent_asin": "B2"},
    ]
    write(tmp_path / "meta_All_Beauty.jsonl.gz", json_lines(metas))
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert histories(dataset) == EXPECTED
    assert dataset.items.table["brand"].to_pylist() == ["Acme", None, None]
    assert dataset.items.table["categories"].to_pylist() == [["Beauty", "Skin"], [], None]
    assert dataset.times is not None
    assert dataset.times.max() == 30_000


def test_amazon_files_of_two_categories_are_not_mixed(tmp_path: Path) -> None:
    for name in ("Beauty", "Toys"):
        write(tmp_path / f"reviews_{name}_5.json", old_reviews())
    with pytest.raises(InputError, match=r"reviews_Beauty_5\.json, reviews_Toys_5\.json; keep one"):
        load_dataset(tmp_path)


def test_reviews_without_their_fields_are_counted_then_refused(tmp_path: Path) -> None:
    write(tmp_path / "reviews_Beauty_5.json", '{"asin": "B1"}\nnot json\n' + old_reviews())
    with pytest.warns(UserWarning, match="2 malformed lines"):
        dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.card["malformed_lines"]["first"][0].endswith("line 1 lacks reviewerID, asin or unixReviewTime")
    write(tmp_path / "reviews_Beauty_5.json", '{"asin": "B1"}\n' * 11)
    with pytest.raises(InputError, match="more than 10 malformed lines"):
        load_dataset(tmp_path)


RATINGS = [(1, 3, 30), (2, 2, 5), (1, 1, 10), (1, 2, 20)]
MOVIES = {1: [1, 2, 3], 2: [2]}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m_and_10m(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "ratings.dat", "".join(f"{user}::{movie}::3.5::{time}\n" for user, movie, time in RATINGS))
    movies = [
        "1::Cérémonie, La (1995)::Drama|War",
        "2::Star: Trek :: Two (1982)::Sci-Fi",
        "3::None::(no genres listed)",
    ]
    write(tmp_path / "movies.dat", "\n".join(movies) + "\n", encoding)
    dataset = load_dataset(tmp_path)
    assert histories(dataset) == MOVIES
    assert dataset.items.table["title"].to_pylist() == ["Cérémonie, La (1995)", "Star: Trek :: Two (1982)", "None"]
    assert dataset.items.table["release_year"].to_pylist() == [1995, 1982, None]
    assert dataset.items.table["genres"].to_pylist() == [["Drama", "War"], ["Sci-Fi"], []]
    assert dataset.items.category_names == ["Drama", "Sci-Fi"]


def test_movielens_20m_and_later(tmp_path: Path) -> None:
    rows = [f"{user},{movie},3.5,{time}\r\n" for user, movie, time in RATINGS]
    write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\r\n" + "".join(rows))
    movies = (
        '1,"American President, The (1995)",Comedy|Drama\r\n2,Nixon (1995) ,Drama\r\n3,Untitled,(no genres listed)\r\n'
    )
    write(tmp_path / "movies.csv", "movieId,title,genres\r\n" + movies)
    dataset = load_dataset(tmp_path)
    assert histories(dataset) == MOVIES
    assert dataset.items.table["title"][0].as_py() == "American President, The (1995)"
    assert dataset.items.table["release_year"].to_pylist() == [1995, 1995, None]


@pytest.mark.parametrize(
    ("ratings", "movies", "message"),
    [
        ("1::2::3\n", "1::a::b\n", "line 1 is not"),
        ("1::x::3::4\n", "1::a::b\n", "not a ratings file"),
        ("", "1::a::b\n", "0 ratings"),
        ("1::1::3::4\n", "1::a\n", "movie, title and genres"),
        ("1::1::3::4\n", "1::a::b\n1::a::b\n", "movie 1 more than once"),
    ],
)
def test_broken_movielens_files_are_refused(tmp_path: Path, ratings: str, movies: str, message: str) -> None:
    write(tmp_path / "ratings.dat", ratings)
    write(tmp_path / "movies.dat", movies)
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path)


def write_atomic(folder: Path) -> None:
    rows = "".join(f"{user}\t{item}\t5.0\t{time}.0\n" for user, item, time in REVIEWS)
    write(folder / "Shop.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    items = 'B1\tSoap "bar\tBeauty, Skin\tAcme\t1.5\nB2\tBrush\tBeauty, Hair\t\t\n'
    write(
        folder / "Shop.item", "item_id:token\ttitle:token_seq\tcategories:token_seq\tbrand:token\tprice:float\n" + items
    )


def test_recbole_atomic_files(tmp_path: Path) -> None:
    write_atomic(tmp_path)
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert (dataset.name, histories(dataset)) == ("Shop", EXPECTED)
    assert dataset.items.table["title"].to_pylist() == ['Soap "bar', "Brush", None]
    assert dataset.items.category_names == ["Beauty > Skin", "Beauty > Hair"]
    assert dataset.items.table["price"].to_pylist() == [1.5, None, None]
    named = read_interactions(tmp_path / "Shop.inter", tmp_path / "Shop.item", min_interactions=1)
    assert named.card["fingerprint"] == dataset.card["fingerprint"]


def test_recbole_files_without_items_or_times(tmp_path: Path) -> None:
    write(tmp_path / "x.inter", "user_id:token\titem_id:token\na\t07\na\t7\n")
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert histories(dataset) == {"a": ["07", "7"]}
    assert dataset.times is None
    write(tmp_path / "y.inter", "user_id:token\titem_id:token\n")
    with pytest.raises(InputError, match=r"keep one \.inter file"):
        load_dataset(tmp_path)


def test_recbole_label_sets_give_their_first_label(tmp_path: Path) -> None:
    write(tmp_path / "ml.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t1\t5\n")
    write(
        tmp_path / "ml.item", "item_id:token\tmovie_title:token_seq\tgenre:token_seq\n1\tToy Story\tAnimation Comedy\n"
    )
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.items.category_names == ["Animation"]
    assert dataset.items.texts(("title",)) == ["Toy Story"]


def test_sequences_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "sequences.txt", "1 5 3 5\n2 3 9 1\n")
    expected = {1: [5, 3, 5], 2: [3, 9, 1]}
    assert histories(load_dataset(tmp_path / "set")) == expected
    assert load_dataset(tmp_path / "set").name == "set"
    assert histories(read_interactions(path, min_interactions=1)) == expected
    write(path, "u1 a b\n")
    assert histories(load_dataset(tmp_path / "set")) == {"u1": ["a", "b"]}


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.gz", ".jsonl.gz", ".inter.gz"])
def test_text_files_may_be_gzipped(tmp_path: Path, ending: str) -> None:
    if ending == ".jsonl.gz":
        text = json_lines([{"user_id": u, "item_id": i, "timestamp": t} for u, i, t in REVIEWS])
    else:
        separator = "," if ending == ".csv.gz" else "\t"
        rows = [("user_id", "item_id", "timestamp"), *REVIEWS]
        text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    log = write(tmp_path / f"log{ending}", text)
    dataset = read_interactions(log, min_interactions=1)
    assert (dataset.name, histories(dataset)) == ("log", EXPECTED)
    log.write_bytes(log.read_bytes()[:-9])
    with pytest.raises(InputError, match="no whole gzip file"):
        read_interactions(log, min_interactions=1)


@pytest.mark.parametrize("name", ["reviews_Beauty_5.json.gz", "ratings.csv"])
def test_prepared_folders_and_files_say_how_they_are_read(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, old_reviews())
    with pytest.raises(InputError, match="use read_interactions"):
        load_dataset(file)
    if name.endswith(".gz"):
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(InputError, match="no whole gzip file"):
            load_dataset(tmp_path)
