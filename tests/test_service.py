"""The example service, run as a process and asked from outside."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra service")
pytest.importorskip("uvicorn", reason="needs the extra service")

from bench.load_service import Client, load, serving
from reg4rec.recommend import Recommender


@pytest.fixture(scope="module")
def folder(exact: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("service") / "recommender"
    exact.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with serving(folder) as (port, process):
        yield port
    assert process.returncode == -signal.SIGTERM or process.returncode == 0


def test_it_answers_as_the_recommender_does(port: int, exact: Recommender) -> None:
    ids, client = exact.items.ids.to_pylist(), Client(port)
    status, answer = client.send("POST", "/recommend", {"history": ids[:3], "k": 4, "exclude": ids[3:6]})
    assert status == 200
    expected = exact.recommend([ids[:3]], k=4, exclude=ids[3:6])
    assert [item["item_id"] for item in answer["items"]] == expected["item_id"].to_pylist()
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected["score"].to_pylist(), rel=1e-5)
    _, answer = client.send("POST", "/recommend", {"history": [], "candidates": ids[:2], "reasons": True})
    assert {item["item_id"] for item in answer["items"]} == set(ids[:2])
    assert {item["sentence"] for item in answer["items"]} == {"Chosen for you."}
    asked = {"history": [*ids[:5], "unheard of"], "k": 3, "reasons": True}
    found = exact.recommend([ids[:5]], k=3)["item_id"].to_pylist()
    answer = client.send("POST", "/recommend", asked)[1]["items"]
    assert [item["item_id"] for item in answer] == found
    assert any(item["sentence"].startswith("Because you chose ") for item in answer)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "send an object with history"),
        ({"k": 3}, "send an object with history"),
        ({"history": [], "limit": 3}, "limit"),
        ({"history": "B01"}, "must be lists"),
        ({"history": [], "k": 0}, "k must be a whole number from 1"),
        ({"history": [], "filter_seen": []}, "true or false"),
        ({"history": [], "candidates": ""}, "must be lists"),
        ({"history": [{"id": 1}]}, "item ids of this catalog are of type string"),
        ({"history": [{"id": 1}], "reasons": True}, "item ids of this catalog are of type string"),
    ],
)
def test_a_mistake_is_explained_and_spoils_no_other_request(port: int, body: Any, sentence: str) -> None:
    others: list[int] = []
    threads = [
        threading.Thread(target=lambda: others.append(Client(port).send("POST", "/recommend", {"history": []})[0]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    status, answer = Client(port).send("POST", "/recommend", body)
    for thread in threads:
        thread.join()
    assert status == 400
    assert sentence in answer["error"]
    assert others == [200] * 4


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/items", ["x"]), ("POST", "/items", {}), ("DELETE", "/items", {"a": 1}), ("POST", "/model", {})],
)
def test_other_mistakes_are_explained_too(port: int, method: str, path: str, body: Any) -> None:
    status, answer = Client(port).send(method, path, body)
    assert (status, answer["error"][:4]) == (400, "send")


def test_items_come_and_go(port: int, exact: Recommender) -> None:
    client, ids = Client(port), exact.items.ids.to_pylist()
    before = client.send("GET", "/health")[1]["items"]
    assert client.send("DELETE", "/items", [ids[0]])[1] == {"removed": 1}
    assert client.send("POST", "/items", [{"item_id": ids[0], "title": "again"}])[1] == {"added": 1}
    table = {"item_id": "brand new", **dict.fromkeys(exact.tokenizer.views.config.text_columns, "new")}
    assert client.send("POST", "/items", [table])[1] == {"added": 1}
    assert client.send("GET", "/health")[1]["items"] == before + 1


def test_no_request_fails_under_load_while_items_and_the_model_are_exchanged(folder: Path, exact: Recommender) -> None:
    ids = exact.items.ids.to_pylist()
    with serving(folder) as (port, process):
        found = load(port, process.pid, ids, folder, requests=300, clients=6)
        assert (found["requests"], found["errors"]) == (300, 0), found["first_errors"]
        assert found["changes"] >= 3
        client = Client(port)
        client.send("GET", "/health")
        client.connection.request("POST", "/recommend", json.dumps({"history": ids[:5], "k": 30}))
        os.kill(process.pid, signal.SIGTERM)
        answer = client.connection.getresponse()  # open requests are answered before the service ends
        assert (answer.status, len(json.loads(answer.read())["items"])) == (200, 30)
