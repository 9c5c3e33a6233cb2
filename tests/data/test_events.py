"""Kinds of events: which are read, skipped or refused; each kind stays with its interaction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from reg4rec.cli import main
from reg4rec.data import Dataset, load_dataset, read_interactions, synthetic_shop
from reg4rec.data.events import Kinds
from reg4rec.data.shop import with_views
from reg4rec.errors import InputError
from reg4rec.experiments.held_out import hold_out
from tests.artifacts import reseal
from tests.data.files import histories

ROWS = [
    ("a", 1, 10, "view"), ("a", 1, 10, "purchase"), ("a", 2, 20, "view"), ("a", 3, 30, "purchase"),
    ("b", 2, 10, "cart"), ("b", 2, 20, "view"), ("b", 3, 30, "view"), ("b", 1, 40, " purchase "),
    ("b", 1, 40, "view"), ("c", 3, 10, ""), ("c", 3, 20, "view"), ("", 3, 20, "gone"),
]  # fmt: skip
WEIGHTS = {"view": 0.25, "purchase": 1}
KINDS = {"a": ["purchase", "view", "purchase"], "b": ["view", "view", "purchase"], "c": ["view"]}


def log(rows: list[tuple[Any, ...]] = ROWS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "event_type"], orient="row")


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    log().write_csv(tmp_path / "clicks.csv")
    return tmp_path / "clicks.csv"


@pytest.fixture
def data() -> Dataset:
    return read(log())


def read(source: Any, events: Any = WEIGHTS, **more: Any) -> Dataset:
    with pytest.warns(UserWarning, match="their kind has no weight"):
        return read_interactions(source, event="event_type", events=events, **more)


def kinds_of(data: Dataset) -> dict[Any, list[str]]:
    assert data.kinds is not None
    names = [list(data.kinds.weights)[row] for row in data.kinds.rows]
    bounds = data.sequences.offsets
    return {user: names[bounds[u] : bounds[u + 1]] for u, user in enumerate(data.user_ids.to_pylist())}


def test_kinds_stay_with_their_interactions_and_the_heaviest_of_equals_stays(clicks: Path, data: Dataset) -> None:
    for found in (data, read(clicks), read(pl.read_csv(clicks).to_pandas())):
        assert histories(found) == {"a": [1, 2, 3], "b": [2, 3, 1], "c": [3]}
        assert kinds_of(found) == KINDS
        assert found.weights is not None
        assert found.weights.dtype == np.float32
        assert found.weights.tolist() == [1, 0.25, 1, 0.25, 0.25, 1, 0.25]
        assert found.card["events"] == {
            "weights": {"purchase": 1.0, "view": 0.25},
            "interactions": {"purchase": 3, "view": 4},
            "validation_targets": 0,
        }
        assert found.card["rows_of_other_kinds"] == {"(none)": 1, "cart": 1}
        assert found.card["dropped"]["duplicates"] == 2
        assert not found.card["hints"]


def test_kinds_may_be_numbers_and_the_order_of_weights_does_not_matter(data: Dataset) -> None:
    numbers = {"view": 1, "purchase": 4, "cart": 2, "": None, " purchase ": 4, "gone": 9}
    coded = log().with_columns(event_type=pl.col("event_type").replace_strict(numbers, return_dtype=pl.Int64))
    for column in (coded, coded.with_columns(pl.col("event_type").cast(pl.Float64))):
        assert read(column, {1: 0.25, 4: 1}).weights.tolist() == data.weights.tolist()  # type: ignore[union-attr]
    assert read(log(), dict(reversed(WEIGHTS.items()))).card["fingerprint"] == data.card["fingerprint"]
    assert read(log(), {"view": 0.25, "purchase": 2}).card["fingerprint"] != data.card["fingerprint"]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({}, "1 to 256 kinds"),
        ({str(k): 1 for k in range(257)}, "1 to 256 kinds"),
        ("purchase", "1 to 256 kinds"),
        ({"view": -0.1}, "gives 'view' the weight -0.1; a weight is a finite number, 0 or more"),
        ({"view": float("nan")}, "finite"),
        ({"view": float("inf")}, "finite"),
        ({"view": 1e39}, "finite"),
        ({"view": "1"}, "finite"),
        ({"view": True}, "finite"),
        ({"view": 0, "purchase": 0.0}, "weight 0 to all of view, purchase"),
        ({"": 1}, "without a name"),
        ({"view": 1, "buy": 1}, r"event_type of .* has no buy, .* it has view \(6\), purchase \(3\), \(none\)"),
        (None, r"none has a weight; give some .* \(--events KIND=WEIGHT \.\.\.\): view \(6\), purchase"),
    ],
)
def test_values_that_are_no_weights_are_refused(events: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_interactions(log(), event="event_type", events=events)


def test_a_column_is_needed_and_must_hold_kinds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column of kinds is named; name it by event="):
        read_interactions(log(), events=WEIGHTS)
    with pytest.raises(InputError, match=r"has no column kind; it has .* event_type"):
        read_interactions(log(), event="kind", events=WEIGHTS)
    lists = log().with_columns(event_type=pl.concat_list("event_type"))
    with pytest.raises(InputError, match="must be text or numbers"):
        read_interactions(lists, event="event_type", events=WEIGHTS)
    (tmp_path / "log.txt").write_text("a 1 2 3\n")
    with pytest.raises(InputError, match=r"log\.txt has lists of items, without a column event_type"):
        read_interactions(tmp_path / "log.txt", event="event_type", events=WEIGHTS)


def test_without_weights_a_hint_names_the_options_and_nothing_else_changes() -> None:
    plain = read_interactions(log())
    assert "--event event_type (event='event_type') with --events KIND=WEIGHT" in plain.card["hints"][0]
    assert plain.weights is plain.kinds is None
    assert not {"events", "rows_of_other_kinds"} & plain.card.keys()


def test_kinds_survive_saving_splitting_and_more_vectors(data: Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "data")
    for same in (load_dataset(tmp_path / "data"), data.with_time_split(15, 35, "timestamp"), more_vectors(data)):
        assert kinds_of(same) == KINDS
        assert same.card["events"]["interactions"] == data.card["events"]["interactions"]
    assert load_dataset(tmp_path / "data").card == data.card
    plain = Dataset.build("plain", data.user_ids, data.sequences, data.items, times=data.times)
    alike = replace(data, kinds=Kinds({"purchase": 1.0, "view": 1.0}, np.zeros(7, dtype=np.uint8)))
    assert len({plain.fingerprint(), data.fingerprint(), alike.fingerprint()}) == 3


def more_vectors(data: Dataset) -> Dataset:
    return data.with_vectors({"image": np.ones((data.num_items, 2))})


def test_the_kinds_of_users_and_items_that_training_sees_stay() -> None:
    data = with_views(synthetic_shop(num_users=60, num_items=40, num_facets=3), seed=3)
    seen = hold_out(data, items=0.2, users=0.2, seed=0).seen
    whole, kept = pairs(data), set(seen.items.ids.to_pylist())
    assert len(pairs(seen)) == 48
    for user, events in pairs(seen).items():
        assert events == [(item, kind) for item, kind in whole[user] if item in kept]


def pairs(data: Dataset) -> dict[Any, list[tuple[Any, str]]]:
    items, kinds = histories(data), kinds_of(data)
    return {user: list(zip(items[user], kinds[user], strict=True)) for user in items}


def test_false_kinds_in_a_folder_are_refused(data: Dataset, tmp_path: Path) -> None:
    assert data.kinds is not None
    for kinds in (
        Kinds({"purchase": 1.0}, data.kinds.rows),
        Kinds({"view": 0.25, "purchase": 1.0}, data.kinds.rows),
        Kinds({"purchase": 1.0}, np.zeros(6, dtype=np.uint8)),
        Kinds({"purchase": 1.0}, np.zeros(7)),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=r"rows of kinds range|a row for each of the 7 interactions"):
            Dataset.build("x", data.user_ids, data.sequences, data.items, kinds=kinds)
    data.save(tmp_path / "data")
    for events in ({"purchase": 1.0, "view": 0.5}, None, ["purchase"]):
        reseal(tmp_path / "data" / "dataset.json", {"events": events})
        with pytest.raises(InputError, match=r"fingerprint differs|1 to 256 kinds"):
            Dataset.load(tmp_path / "data")


def test_the_shops_log_has_views_before_each_purchase() -> None:
    shop = synthetic_shop(num_users=40, num_items=60, seed=1)
    data = with_views(shop, views=2.0, view=0.1, seed=1)
    assert data.kinds is not None
    bought = data.kinds.rows == [*data.kinds.weights].index("purchase")
    assert data.sequences.items[bought].tolist() == shop.sequences.items.tolist()
    assert data.sequences.owners()[bought].tolist() == shop.sequences.owners().tolist()
    assert bought[data.sequences.offsets[1:] - 1].all()
    assert 1.6 < (~bought).sum() / bought.sum() < 2.1
    assert with_views(shop, seed=1).card["fingerprint"] == with_views(shop, seed=1).card["fingerprint"]


def command(clicks: Path, *more: str) -> None:
    main(["data", "prepare", str(clicks), "--out", str(clicks.parent / "out"), *more])


def test_the_command_takes_a_column_and_weights(clicks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(clicks, "--event", "event_type", "--events", "view=0.25", "purchase=1")
    printed, said = capsys.readouterr()
    assert "weights of kinds (and their interactions): purchase 1 (3), view 0.25 (4)" in printed
    assert "rows left out because their kind has no weight in --events (events=): 1 (none), 1 cart" in said
    assert "hint" not in printed
    assert kinds_of(Dataset.load(clicks.parent / "out")) == KINDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--event", "event_type"), "none has a weight"),
        (("--events", "view=1"), "name it by event="),
        (("--event", "event_type", "--events", "view"), "events has 'view'; give KIND=WEIGHT"),
        (("--event", "event_type", "--events", "view=much"), "events has 'view=much'"),
        (("--event", "event_type", "--events", "view=-1"), "0 or more"),
        (("--event", "event_type", "--events", "buy=1"), "has no buy"),
    ],
)
def test_the_command_says_what_is_wrong(
    clicks: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(clicks, *options)
    assert message in capsys.readouterr().err
    assert not (clicks.parent / "out").exists()
