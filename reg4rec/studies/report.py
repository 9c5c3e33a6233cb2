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
from reg4rec.storage import atomic_file, read_json, to_json

__all__ = ["Finding", "gather", "write_report"]

SHOWN = ("settings", "changes", "cards", "counts", "versions", "machine")
"""Parts of a finding that tell how it was made; its rows stand in the table."""
PASSED_OVER = {"checkpoints", "fits", "runs"}
"""Folders of runs: they hold no findings, and much else."""
STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fff; --soft: #f3f5f8; --line: #d5dae2; --link: #1c5fb8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ee; --paper: #14171c; --soft: #1e232b; --line: #39414d; --link: #8bb8f5; }
  img { filter: invert(.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin: 0 0 .3rem; }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem; }
a { color: var(--link); }
nav ol { padding-left: 1.4rem; }
section { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2rem; }
.table { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); text-align: left; }
td:first-child { padding-left: .3rem; white-space: normal; min-width: 8.5rem; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
details { margin: .8rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; font-size: .8rem; line-height: 1.35; }
.where { color: color-mix(in srgb, var(--ink) 65%, transparent); font-size: .875rem; margin: 0 0 .6rem; }
@media print { details { display: none; } section { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Finding:
    """What one comparison or study wrote: its header, its Markdown, and its picture where there is one."""

    place: str
    """its name in the folder that was searched"""
    header: dict[str, Any]
    text: str
    picture: bytes | None


def gather(folders: Sequence[Path]) -> list[Finding]:
    """The findings of folders and of those below them, in the order of the folders and of their names.

    A finding is a `NAME.json` with a format of this library, beside a `NAME.md`. InputError for a folder that is not
    there, for a finding that cannot be read, and where there is none.
    """
    found = [finding for folder in folders for finding in _in_folder(folder)]
    if not found:
        raise InputError(
            f"no finding lies in {', '.join(map(str, folders))}; "
            "give folders that `reg4rec compare` or `reg4rec study` wrote"
        )
    return found


def _in_folder(folder: Path) -> Iterator[Finding]:
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
                    yield Finding(
                        str(path.relative_to(folder).with_suffix("")),
                        header,
                        path.with_suffix(".md").read_text(encoding="utf-8"),
                        picture.read_bytes() if picture.exists() else None,
                    )


def write_report(findings: Sequence[Finding], out: Path, title: str = "What was measured") -> None:
    """Write findings as one HTML page that needs nothing else; the same findings give the same bytes."""
    sections = [_section(number, finding) for number, finding in enumerate(findings, start=1)]
    entries = "\n".join(f'<li><a href="#f{number}">{name}</a></li>' for number, (name, _) in enumerate(sections, 1))
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<nav><ol>
{entries}
</ol></nav>
{"".join(body for _, body in sections)}</body>
</html>
"""
    with atomic_file(out) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _section(number: int, finding: Finding) -> tuple[str, str]:
    """The finding's title and its part of the page."""
    title, text = _rendered(finding)
    picture = ""
    if finding.picture is not None:
        data = base64.b64encode(finding.picture).decode("ascii")
        picture = f'<img src="data:image/png;base64,{data}" alt="{title}: the table as a picture">\n'
    settings = {name: finding.header[name] for name in SHOWN if name in finding.header}
    details = f"<details><summary>Exact settings</summary><pre>{html.escape(to_json(settings))}</pre></details>\n"
    place = f'<p class="where">{html.escape(finding.place)}</p>\n'
    return title, f'<section id="f{number}">\n<h2>{title}</h2>\n{place}{text}{picture}{details}</section>\n'


def _rendered(finding: Finding) -> tuple[str, str]:
    """The first heading of a finding's Markdown, and the rest as HTML one level further down; raw HTML is escaped."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = markdown.parse(finding.text)
    title = html.escape(finding.place)
    if tokens and tokens[0].type == "heading_open":
        title = markdown.renderer.render(tokens[1:2], markdown.options, {})
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    return title, markdown.renderer.render(tokens, markdown.options, {})
