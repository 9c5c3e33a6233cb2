"""The report: every finding with its table, picture and settings on one page without external resources."""

import contextlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reg4rec.cli import main
from reg4rec.errors import InputError
from reg4rec.experiments import Finding, gather, write_report
from reg4rec.experiments.finding import Picture, Table


class Page(HTMLParser):
    """What a browser would fetch, and the texts of headings and cells."""

    def __init__(self, text: str):
        super().__init__()
        self.fetched: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br"):
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts.setdefault(self.tags[-1], []).append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison, two studies, and their runs."""
    out = tmp_path_factory.mktemp("runs")

    def found(name: str, dataset: str, question: str, *tables: Table, **more: Any) -> Finding[Any]:
        return Finding(name, (f"reg4rec-{name}", 1), dataset, question, [], [*tables], "", versions={}, **more)

    picture = Picture(2, 2, lambda figure: figure.subplots().plot([0, 1]))
    row = Table([0.2], {"": "unchanged", "recall@10": "{row:.4f}"})
    found("sizes", "<script>alert(1)</script>", "a question", row, settings={"size": "tiny"}, picture=picture).save(
        out / "studies"
    )
    method = Table(["popularity"], {"method": "{row}"}, "standard")
    found("compare", "shop", "methods compared", method, settings={}, picture=picture).save(out / "compare")
    items, people = Table([0.25], {"": "{row:.4f}"}, "New items"), Table([0.5], {"": "{row:.4f}"}, "New users")
    found("cold-start", "shop", "cold starts", items, people, settings={"seed": 7}).save(out / "studies" / "cold")
    run = out / "compare" / "runs" / "popularity"
    run.mkdir(parents=True)
    for name in ("result.json", "result.md"):
        (run / name).write_text("of a run, not a finding")
    (out / "package.json").write_text('{"name": "of something else"}')
    (out / "package.md").write_text("something else")
    (out / "recommender.json").write_text('{"format": "reg4rec-recommender"}')
    return out


def test_everything_that_was_found_is_on_the_page(folder: Path, tmp_path: Path) -> None:
    findings = gather([folder])
    assert [f.place for f in findings] == ["compare/compare", "studies/sizes", "studies/cold/cold-start"]
    write_report(findings, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.tags == []
    assert page.texts["h1"] == ["What was measured"]
    assert page.texts["h2"] == [
        "shop: methods compared",
        "<script>alert(1)</script>: a question",
        "shop: cold starts",
    ]
    assert {"standard", "New items", "New users"} == set(page.texts["h3"])
    assert {"popularity", "0.2000", "unchanged", "0.2500"} <= set(page.texts["td"])
    assert any('"seed": 7' in block for block in page.texts["pre"])
    assert any('"size": "tiny"' in block for block in page.texts["pre"])


def test_the_page_needs_nothing_else_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    write_report(gather([folder]), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    fetched = Page(text).fetched
    assert {place.partition(",")[0] for place in fetched if not place.startswith("#")} == {"data:image/png;base64"}
    assert sorted(place for place in fetched if place.startswith("#")) == ["#f1", "#f2", "#f3"]
    assert all(f'<section id="f{n}">' in text for n in (1, 2, 3))
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_same_findings_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(gather([folder / "studies", folder / "compare"]), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_what_cannot_be_gathered_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is not a folder; give folders that `reg4rec compare`"):
        gather([folder, tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"no finding lies in .*; give folders"):
        gather([tmp_path])
    (tmp_path / "corp.json").write_text("{")
    (tmp_path / "corp.md").write_text("# torn")
    with pytest.raises(InputError, match=r"corp\.json is not readable JSON"):
        gather([tmp_path])


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(["report", str(folder / "studies"), str(folder / "compare"), "--out", str(out), "--json"])
    assert json.loads(shown.getvalue())["findings"] == ["sizes", "cold/cold-start", "compare"]
    assert "shop: cold starts" in out.read_text()
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "nowhere")])
    assert "is not a folder" in said.getvalue()


def test_a_heading_of_foreign_findings_becomes_no_attribute(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "reg4rec-comparison"}')
    (tmp_path / "x.md").write_text("# [a](onerror=alert(1)//) \"<b onload='x'>\n\ntext\n")
    (tmp_path / "x.png").write_bytes(b"no picture")
    write_report(gather([tmp_path]), tmp_path / "report.html")
    seen: dict[str, list[tuple[str, str | None]]] = {}

    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.setdefault(tag, []).extend(attrs)

    Attributes().feed((tmp_path / "report.html").read_text())
    assert [name for name, _ in seen["img"]] == ["src", "alt"]
    assert dict(seen["img"])["alt"] == "a \"<b onload='x'>: the table as a picture"
    assert "b" not in seen
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in seen["meta"]
