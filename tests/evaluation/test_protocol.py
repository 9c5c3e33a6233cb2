"""The evaluation protocol: which users, which histories, what the card says."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from reg4rec.data import Dataset, ItemCatalog, Sequences, load_dataset, synthetic_shop
from reg4rec.errors import InputError
from reg4rec.evaluation import Popularity, Ranker, evaluate


@dataclass
class Spy:
    """Always ranks item 3 first and records its calls."""

    name: str = "spy"
    trained_on: str = "train"
    asked: list[Any] = field(default_factory=list)

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        self.asked.append(([histories[b].tolist() for b in range(len(histories))], k, filter_seen))
        ranked_BN = np.full((len(histories), k), -1, dtype=np.int32)
        ranked_BN[:, 0] = 3
        return ranked_BN


def make_dataset() -> Dataset:
    # item 5 is only ever a test target: cold
    histories = [[0, 1, 2, 3], [3, 0, 1, 5], [1, 2], [3, 2, 1, 3]]
    items = ItemCatalog.from_table(pa.table({"item_id": list(range(6))}))
    return Dataset.build("tiny", pa.array(["a", "b", "c", "d"]), Sequences.from_lists(histories), items)


def test_standard_keeps_everybody_with_a_target() -> None:
    spy = Spy()
    report = evaluate(spy, make_dataset(), ks=(1, 2), batch_size=2)
    assert spy.asked == [([[0, 1, 2], [3, 0, 1]], 2, False), ([[3, 2, 1]], 2, False)]
    assert report.rows[0].metrics["recall@1"] == pytest.approx(2 / 3)
    assert report.card["cold_targets"] == 1
    assert (report.card["users"], report.card["users_without_target"]) == (3, 1)
    assert report.card["repeated_targets"] == 1


def test_filtered_drops_cold_targets_and_seen_items() -> None:
    spy = Spy()
    report = evaluate(spy, make_dataset(), protocol="filtered", ks=(1,))
    assert spy.asked == [([[0, 1, 2], [3, 2, 1]], 1, True)]
    assert report.rows[0].metrics["ndcg@1"] == 1.0
    assert report.card["cold_targets_dropped"] is True


def test_validation_sees_one_item_less() -> None:
    spy = Spy()
    evaluate(spy, make_dataset(), split="validation", ks=(1,))
    assert spy.asked[0][0] == [[0, 1], [3, 0], [3, 2]]


def test_batches_do_not_change_the_result() -> None:
    shop = synthetic_shop(num_users=60, num_items=40)
    reports = [evaluate(shop.oracle, shop, batch_size=size).rows[0].metrics for size in (7, 512)]
    assert reports[0] == pytest.approx(reports[1], abs=1e-12)


def test_a_sample_is_seeded() -> None:
    shop = synthetic_shop(num_users=200)
    spies = [Spy(), Spy(), Spy()]
    for spy, seed in zip(spies, (0, 0, 1), strict=True):
        assert evaluate(spy, shop, max_users=20, seed=seed).card["users"] == 20
    assert spies[0].asked == spies[1].asked != spies[2].asked


def test_the_oracle_beats_popularity() -> None:
    shop = synthetic_shop()
    rankers: list[Ranker] = [shop.oracle, Popularity.fit(shop)]
    assert all(isinstance(ranker, Ranker) for ranker in rankers)
    oracle, popularity = evaluate(rankers, shop, split="validation").rows
    assert oracle.metrics["recall@10"] > 0.7 > 0.2 > popularity.metrics["recall@10"]


def test_a_report_is_printed_and_saved(tmp_path: Path) -> None:
    report = evaluate([Spy(), Spy(name="other")], make_dataset(), ks=(5, 10))
    lines = report.table().splitlines()
    assert lines[0].split()[:4] == ["method", "trained", "on", "recall@5"]
    assert lines[2].startswith("other")
    assert "1 cold targets counted" in lines[-1]
    report.save(tmp_path / "metrics.json")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["rows"][0]["metrics"] == report.rows[0].metrics
    assert stored["card"] == report.card


def test_bad_requests_are_refused() -> None:
    dataset = make_dataset()
    bad: list[tuple[dict[str, Any], str]] = [
        ({"protocol": "loose"}, "standard"),
        ({"split": "train"}, "test"),
        ({"ks": (0,)}, "from 1 up"),
        ({"max_users": 0}, "1 or more"),
        ({"max_users": 5, "seed": -1}, "seed is -1; it must be from 0 to 2147483647"),
    ]
    for options, message in bad:
        with pytest.raises(InputError, match=message):
            evaluate(Spy(), dataset, **options)
    with pytest.raises(InputError, match="no ranker"):
        evaluate([], dataset)


def test_a_ranker_of_another_catalog_is_refused() -> None:
    spy = Spy()
    spy.items = ItemCatalog.from_table(pa.table({"item_id": [5, 4, 3, 2, 1, 0]}))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="spy was made for 6 items that are not the 6 items of tiny"):
        evaluate(spy, make_dataset())


def test_a_ranker_of_the_wrong_shape_is_caught() -> None:
    class Short(Spy):
        def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
            return super().rank(histories, k - 1, filter_seen)

    with pytest.raises(ValueError, match="spy returned"):
        evaluate(Short(), make_dataset())


@pytest.mark.skipif(not os.environ.get("REG4REC_DATA"), reason="REG4REC_DATA names no folder of datasets")
@pytest.mark.parametrize(
    ("name", "recall", "ndcg"), [("amazon2014-beauty", 0.0114, 0.0053), ("amazon2014-toys", 0.0089, 0.0049)]
)
def test_popularity_on_real_data(name: str, recall: float, ndcg: float) -> None:
    dataset = load_dataset(name)
    metrics = evaluate(Popularity.fit(dataset, "train"), dataset).rows[0].metrics
    assert metrics["recall@10"] == pytest.approx(recall, abs=5e-5)
    assert metrics["ndcg@10"] == pytest.approx(ndcg, abs=5e-5)
