"""Amazon reviews in the layouts of 2014, 2018 and 2023."""

import json
from pathlib import Path
from typing import Any

import pytest

from reg4rec.data import load_dataset
from reg4rec.errors import InputError
from tests.data.files import EXPECTED, REVIEWS, histories, json_lines, write


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
    with pytest.warns(UserWarning, match="meta_Beauty.json line 1 is not an item"):
        dataset = load_dataset(tmp_path, min_interactions=1)
    assert not (tmp_path / "run").exists()
    assert dataset.card["malformed_lines"]["count"] == 1
    assert dataset.items.texts(("title",)) == ["soap", "", ""]


def test_amazon_2014_reviews_may_be_python_literals_and_repeat(tmp_path: Path) -> None:
    reviews = [json.loads(line) for line in old_reviews().splitlines()]
    reviews += [reviews[0], reviews[1] | {"unixReviewTime": 6, "reviewerName": "J. 'Joe' O\"Neil"}]
    write(tmp_path / "reviews_Beauty.json.gz", "".join(f"{review!r}\n" for review in reviews))
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert histories(dataset) == EXPECTED | {"A2": ["B2", "B2"]}  # once more is a review, the same again is not
    assert dataset.card["dropped"]["duplicates"] == 1


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


@pytest.mark.parametrize("reviews", ["All_Beauty.json.gz", "All_Beauty_5.json.gz"])
def test_amazon_2018_as_published(tmp_path: Path, reviews: str) -> None:
    rows = [
        {"overall": 5.0, "vote": "1,203", "verified": True, "reviewTime": "09 1, 2016", "style": {"Size:": " 180"}}
        | {"reviewerID": user, "asin": item, "unixReviewTime": time, "reviewerName": "K", "image": ["x.jpg"]}
        for user, item, time in REVIEWS
    ]
    write(tmp_path / reviews, json_lines([*rows, rows[0] | {"style": {"Size:": " 90"}}]))
    common = {"tech1": "", "description": [""], "fit": "", "also_buy": [], "main_cat": "All Beauty", "price": ""}
    metas: list[dict[str, Any]] = [
        {"asin": "B1", "category": ["Men&#39;s", "Skin &amp; Hair"], "title": "Calm &amp; Cool", "brand": "by\n  Acme"},
        {"asin": "B2", "category": [], "title": "var start = (new Date()).getTime();\n", "brand": "by Terry"},
        {"asin": "B3", "category": [], "rank": [], "details": {"\n    ASIN: \n    ": "B3"}, "brand": "\n    \n    "},
    ]
    write(tmp_path / "meta_All_Beauty.json.gz", json_lines([common | meta for meta in metas]))
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert (dataset.name, histories(dataset)) == ("All_Beauty", EXPECTED)
    assert dataset.card["source"]["release"] == "Amazon reviews 2018"
    assert dataset.card["dropped"]["duplicates"] == 1
    assert dataset.items.table["title"].to_pylist() == ["Calm & Cool", None, None]
    assert dataset.items.table["brand"].to_pylist() == ["Acme", "by Terry", None]
    assert dataset.items.table["categories"].to_pylist() == [["Men's", "Skin & Hair"], [], []]


def test_any_json_file_is_not_taken_for_reviews(tmp_path: Path) -> None:
    write(tmp_path / "settings.json", "{}")
    with pytest.raises(InputError, match="is not a dataset"):
        load_dataset(tmp_path)


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
