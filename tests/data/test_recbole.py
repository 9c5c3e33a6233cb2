"""RecBole's atomic files."""

from pathlib import Path

import pytest

from reg4rec.data import load_dataset, read_interactions
from reg4rec.errors import InputError
from tests.data.files import EXPECTED, REVIEWS, histories, write


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


def test_recbole_amazon_labels_are_a_set_in_quotes(tmp_path: Path) -> None:
    rows = "".join(f"a\tB{n}\t5.0\t{n}.0e3\n" for n in (1, 2, 3))
    write(tmp_path / "Amazon_Beauty.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    header = "item_id:token\ttitle:token\tcategories:token_seq\tsales_rank:float\tembedding:float_seq\n"
    rows = (
        'B1\t"The ""best"" soap"\t\'Arts, Crafts\', \'Beauty\'\t\t0.5 1.5\n'
        'B2\t"Weird Al"\t"""Men\'s"", \'Beauty\'"\t12.0\t\n'
        "B3\t\t'Beauty'\t\t\n"
    )
    write(tmp_path / "Amazon_Beauty.item", header + rows)
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.items.table["title"].to_pylist() == ['The "best" soap', '"Weird Al"', None]
    paths = [["Beauty", "Arts, Crafts"], ["Beauty", "Men's"], ["Beauty"]]
    assert dataset.items.table["categories"].to_pylist() == paths
    assert dataset.items.table["embedding"][0].as_py() == "0.5 1.5"


def test_recbole_names_of_movielens_10m(tmp_path: Path) -> None:
    write(tmp_path / "ml-10m.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t3.5\t8\n")
    header = "item_id:token\tmovie_name:token_seq\ttype:token_seq\n"
    write(tmp_path / "ml-10m.item", header + "7\tSabrina (1995)\tComedy Romance\n")
    dataset = load_dataset(tmp_path, min_interactions=1)
    assert dataset.items.table["title"].to_pylist() == ["Sabrina (1995)"]
    assert dataset.items.category_names == ["Comedy"]
