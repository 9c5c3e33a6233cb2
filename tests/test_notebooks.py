"""The notebooks, executed from top to bottom in a folder of their own; what they show is what they promise."""

import ast
import os
from pathlib import Path
from typing import Any

import pytest

nbformat: Any = pytest.importorskip("nbformat", reason="needs nbformat and nbclient")
nbclient: Any = pytest.importorskip("nbclient", reason="needs nbformat and nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def value_at_end(path: Path, expression: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The value of an expression after the notebook ran."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(expression))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return ast.literal_eval(notebook.cells[-1].outputs[-1]["data"]["text/plain"])


def test_notebooks_are_kept_without_outputs() -> None:
    assert [path.name for path in NOTEBOOKS] == ["custom_reward.ipynb", "own_data.ipynb"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_own_files_are_recommended_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = '([row.metrics["ndcg@10"] for row in report.rows], table.height, [i.sentence for i in why.recommended])'
    found = value_at_end(ROOT / "examples" / "own_data.ipynb", asked, tmp_path, monkeypatch)
    (popularity, ours), rows, sentences = found
    assert ours > 2 * popularity
    assert rows == 8
    assert all(sentence.startswith("Because you chose ") for sentence in sentences)
    assert (tmp_path / "run" / "recommender" / "recommender.json").exists()


@pytest.mark.slow
def test_a_reward_of_ones_own_is_earned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = value_at_end(ROOT / "examples" / "custom_reward.ipynb", "share", tmp_path, monkeypatch)
    assert found["after"] > 1.2 * found["before"]
