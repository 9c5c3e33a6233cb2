"""Self-contained HTML pages with one style, for screens of any width, light and dark mode, and print."""

import html
from collections.abc import Mapping

__all__ = ["facts_html", "html_page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy: a page runs no scripts and loads nothing, whatever text it contains."""

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
.table, .wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); text-align: left; }
td:first-child { padding-left: .3rem; white-space: normal; min-width: 8.5rem; }
td.text { white-space: normal; min-width: 9rem; } td.number { text-align: right; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
.wide img { min-width: 38rem; }
details { margin: .8rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--soft); padding: .8rem; font-size: .8rem; line-height: 1.35; }
code { background: var(--soft); padding: 0 .25rem; } pre code { padding: 0; }
.quiet { color: color-mix(in srgb, var(--ink) 65%, transparent); font-size: .875rem; margin: 0 0 .6rem; }
@media print { details { display: none; } section { break-inside: avoid; } }
"""


def html_page(title: str, body: str) -> str:
    """A complete page; `title` is text and is escaped here, `body` is HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}</body>
</html>
"""


def facts_html(title: str, facts: Mapping[str, str]) -> str:
    """A line and a table of facts by name, for a notebook."""
    rows = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(value)}</tr>" for name, value in facts.items())
    return f"<p>{html.escape(title)}</p><table>{rows}</table>"
