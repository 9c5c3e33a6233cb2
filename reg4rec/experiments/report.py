"""One self-contained HTML page of what comparisons and studies found: tables, pictures, exact settings."""

import base64
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from reg4rec.errors import InputError
from reg4rec.page import html_page
from reg4rec.storage import read_json, to_json
from reg4rec.writing import atomic_file

__all__ = ["SavedFinding", "gather", "write_report"]

SHOWN = ("settings", "changes", "cards", "counts", "versions", "machine")
"""Parts of a finding that say how it was made; its rows are in the table."""
PASSED_OVER = {"checkpoints", "fits", "runs"}
"""Folders of runs: they hold no findings, and much else."""


@dataclass(frozen=True)
class SavedFinding:
    """What one comparison or study wrote: its header, its Markdown, and its picture if it has one."""

    place: str
    """its name in the folder that was searched"""
    header: dict[str, Any]
    text: str
    picture: bytes | None


def gather(folders: Sequence[Path]) -> list[SavedFinding]:
    """The findings of folders and of those below them, in the order of the folders and of their names.

    A finding is a `NAME.json` with a format of this library, beside a `NAME.md`. InputError for a missing folder, for a
    finding that cannot be read, and if no finding was found.
    """
    found = [finding for folder in folders for finding in _in_folder(folder)]
    if not found:
        raise InputError(
            f"no finding lies in {', '.join(map(str, folders)) or 'no folder'}; "
            "give folders that `reg4rec compare`, `reg4rec study` or `reg4rec fit` wrote"
        )
    return found


def _in_folder(folder: Path) -> Iterator[SavedFinding]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give folders that `reg4rec compare` or `reg4rec study` wrote")
    for here, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if name not in PASSED_OVER and not name.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if path.suffix == ".json" and path.with_suffix(".md").exists():
                header = read_json(path)
                if str(header.get("format", "")).startswith("reg4rec-"):
                    picture = path.with_suffix(".png")
                    yield SavedFinding(
                        str(path.relative_to(folder).with_suffix("")),
                        header,
                        path.with_suffix(".md").read_text(encoding="utf-8"),
                        picture.read_bytes() if picture.exists() else None,
                    )


def write_report(findings: Sequence[SavedFinding], out: Path) -> None:
    """Write findings as one HTML page that needs nothing else; the same findings give the same bytes."""
    sections = [_section(number, finding) for number, finding in enumerate(findings, start=1)]
    entries = "\n".join(f'<li><a href="#f{number}">{name}</a></li>' for number, (name, _) in enumerate(sections, 1))
    page = html_page("What was measured", f"<nav><ol>\n{entries}\n</ol></nav>\n{''.join(body for _, body in sections)}")
    with atomic_file(out) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _section(number: int, finding: SavedFinding) -> tuple[str, str]:
    """The finding's title and its part of the page."""
    title, plain, text = _rendered(finding)
    picture = ""
    if finding.picture is not None:
        data = base64.b64encode(finding.picture).decode("ascii")
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(plain)}: the table as a picture">'
        picture = f'<div class="wide">{image}</div>\n'
    settings = {name: finding.header[name] for name in SHOWN if name in finding.header}
    details = f"<details><summary>Exact settings</summary><pre>{html.escape(to_json(settings))}</pre></details>\n"
    place = f'<p class="quiet">{html.escape(finding.place)}</p>\n'
    return title, f'<section id="f{number}">\n<h2>{title}</h2>\n{place}{text}{picture}{details}</section>\n'


def _rendered(finding: SavedFinding) -> tuple[str, str, str]:
    """The first heading of a finding's Markdown as HTML and as text, and the rest as HTML one level further down."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = markdown.parse(finding.text)
    title, plain = html.escape(finding.place), finding.place
    if tokens and tokens[0].type == "heading_open":
        title = markdown.renderer.render(tokens[1:2], markdown.options, {})
        plain = "".join(child.content for child in tokens[1].children or [])
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    return title, plain, markdown.renderer.render(tokens, markdown.options, {})
