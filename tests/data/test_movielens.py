"""MovieLens in the layouts of its archives."""

from pathlib import Path

import pytest

from reg4rec.data import load_dataset
from reg4rec.errors import InputError
from tests.data.files import histories, write

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


def test_movielens_titles_with_odd_characters(tmp_path: Path) -> None:
    write(tmp_path / "ml-1m" / "ratings.dat", "".join(f"{u}::{m}::3::{t}\n" for u, m, t in RATINGS))
    movies = "1::Caf\xe9\x85au lait (1995)::Children's|Comedy\n2::'Til (1997)::Drama\n3::Three (1999)::War\n"
    write(tmp_path / "ml-1m" / "movies.dat", movies, "latin-1")
    write(tmp_path / "ml-1m" / "users.dat", "1::F::1::10::48067\n")
    dataset = load_dataset(tmp_path / "ml-1m")
    assert dataset.items.table["title"][0].as_py() == "Caf\xe9\x85au lait (1995)"
    assert dataset.items.table["genres"][0].as_py() == ["Children's", "Comedy"]

    write(tmp_path / "ml-20m" / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,3.5,5\n1,2,4.0,6\n1,3,0.5,7\n")
    cats = '1,"""Great Performances"" Cats, Live (1998)",Musical\n'
    series = '2,"Theory, The (2007-)",Comedy\n3,Towers (1975\u2013 ),War\n'
    write(tmp_path / "ml-20m" / "movies.csv", "movieId,title,genres\n" + cats + series)
    write(tmp_path / "ml-20m" / "tags.csv", "userId,movieId,tag,timestamp\n1,1,fun,5\n")
    dataset = load_dataset(tmp_path / "ml-20m")
    assert dataset.name == "ml-20m"
    assert dataset.items.table["title"][0].as_py() == '"Great Performances" Cats, Live (1998)'
    assert dataset.items.table["release_year"].to_pylist() == [1998, 2007, 1975]


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
