"""A minute of the campaign that `make attack` runs for an hour."""

import sys
from collections.abc import Iterator

import pytest

from tests.attacks import answers, kills, mutations
from tests.attacks.workload import Material

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs fork")]


@pytest.fixture(scope="module")
def material() -> Iterator[Material]:
    with Material.made() as made:
        yield made


def test_threads_and_forked_children_get_the_same_answers(material: Material) -> None:
    found = answers.attack(material, calls=200, forks=4)
    assert found == {"calls_by_threads": 200, "forked_children": 4, "faults": []}


def test_damaged_folders_answer_as_before_or_are_refused(material: Material) -> None:
    found = mutations.attack(material, mutations=140)
    assert found["faults"] == []
    assert sum(found["verdicts"].values()) == 140


@pytest.mark.parametrize("task", ["prepare again", "tokenize", "recommend", "report"])
def test_killed_and_starved_commands_end_with_the_same_result(material: Material, task: str) -> None:
    found = kills.attack(material, kills=3, tasks=(task,))
    assert found["faults"] == []
    assert found["kills"] >= 3
    assert found["files_compared"][task] > 0
