"""Why a user gets these items: the paths that led to them, in words, and the paths that were dropped on the way."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch

from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.infer.histories import find_items
from reg4rec.infer.recommender import Recommender
from reg4rec.infer.search import Living, Paths
from reg4rec.infer.table import results_arrow
from reg4rec.page import html_page
from reg4rec.tokenizer import TokenNames

__all__ = ["Explanation", "Pruned", "Recommended", "Step", "explain"]

NEWEST = 10
"""Items of a history that are shown."""
NO_WORDS = "no telling words"
LISTED = 10
"""Pruned paths that text and page list; the explanation has all."""


@dataclass(frozen=True)
class Step:
    """One token of a path: its words, titles of the items nearest to it, the category predicted after it (None where
    none was), and the probability with which it was chosen."""

    token: str
    words: list[str]
    nearest: list[str]
    category: str | None
    confidence: float


@dataclass(frozen=True)
class Recommended:
    """One item and the path that led to it, empty where none did (`source` tells what did)."""

    rank: int
    item_id: Any
    title: str
    score: float
    source: str
    path: list[Step]


@dataclass(frozen=True)
class Pruned:
    """A path that CORP dropped after `steps`: its last two category distributions diverge by `divergence` nats."""

    steps: list[Step]
    divergence: float
    log_probability: float


@dataclass(frozen=True)
class Explanation:
    """What `explain` found for one user. Titles stand for items, ids where there is no title.

    `outranked` counts consistent paths that better ones left no room for, `fallbacks` the steps at which no path was
    consistent and the least divergent one lived on. `threshold` is CORP's theta, None where it is off.
    """

    user: str
    newest: list[str]
    history_length: int
    recommended: list[Recommended]
    pruned: list[Pruned]
    outranked: int
    fallbacks: int
    threshold: float | None

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON has it."""
        return asdict(self)

    def text(self) -> str:
        """The explanation for a console."""
        lines = [self._heading(), f"newest first: {'; '.join(self.newest) or 'nothing'}"]
        for item in self.recommended:
            lines += ["", f"{item.rank}. {item.title}  {item.score:.3f}{_found_by(item)}"]
            lines += [f"   {_step_line(step)}" for step in item.path]
        lines += ["", self._dropped()]
        for path in self.pruned[:LISTED]:
            tokens = " + ".join(f"{step.token} {', '.join(step.words)}".rstrip() for step in path.steps)
            lines.append(f"   {tokens}: {_turn(path)}, divergence {path.divergence:.3f}")
        return "\n".join(lines)

    def html(self) -> str:
        """The explanation as a page that needs nothing else."""
        items = "".join(_item_html(item) for item in self.recommended)
        newest = "; ".join(map(html.escape, self.newest)) or "nothing"
        dropped = ""
        if self.pruned:
            head = "<tr><th>path<th>category<th>divergence<th>log-probability</tr>"
            rows = "".join(_pruned_html(path) for path in self.pruned[:LISTED])
            dropped = f'<div class="table"><table>{head}{rows}</table></div>'
        body = (
            f"<p>Newest first: {newest}</p>\n{items}<section><h2>Paths that were dropped</h2>"
            f"<p>{html.escape(self._dropped())}</p>{dropped}</section>\n"
        )
        return html_page(self._heading(), body)

    def _heading(self) -> str:
        return f"{self.user}: {self.history_length} items, {len(self.recommended)} recommended"

    def _dropped(self) -> str:
        if self.threshold is None:
            return "CORP is off: no path was dropped for its categories"
        shown = f", the {LISTED} most probable of them below" if len(self.pruned) > LISTED else ""
        return (
            f"Paths that CORP dropped, because their categories moved by more than {self.threshold:g} nats: "
            f"{len(self.pruned)}{shown}; steps at which none was left and the least divergent lived on: "
            f"{self.fallbacks}; paths that gave way to better ones: {self.outranked}"
        )


def explain(
    recommender: Recommender, item_ids: Sequence[Any], k: int = 5, user: str = "this user", filter_seen: bool = True
) -> Explanation:
    """Recommend `k` items for one history (item ids, oldest first) and say by which paths, in words.

    The items are those of `Recommender.recommend`. InputError for ids that the catalog lacks.
    """
    history = find_items(item_ids, recommender.items, "items")
    threshold = recommender.config.prune_threshold if recommender.model.category_head is not None else None
    trace: list[Living] = []
    (results,) = recommender.search(Sequences.from_lists([history]), k, filter_seen, trace=trace)
    words = _Words(recommender)
    found = results_arrow(pa.array([user]), recommender.items, [results]).drop_columns(["user_id", "path"]).to_pylist()
    rows = results.ranking.items_BN[0].tolist()
    paths = [words.path(results.paths, w) if w >= 0 else [] for w in results.ranking.path_BN[0].tolist()]
    recommended = [
        Recommended(**row, title=words.title(item), path=path)
        for row, item, path in zip(found, rows, paths, strict=False)
    ]
    pruned, outranked, fallbacks = [], 0, 0
    for living in trace:
        num_beams = results.paths.scores_BW.shape[1]
        kept_BP, fallback_B = ops.prune_paths(living.scores_BP, living.js_BP, num_beams, threshold)
        dropped_P = ((living.scores_BP > -torch.inf) & ~kept_BP)[0]
        if threshold is not None and living.js_BP is not None:
            for path in (dropped_P & (living.js_BP[0] > threshold)).nonzero().flatten().tolist():
                divergence, log_probability = float(living.js_BP[0, path]), float(living.scores_BP[0, path])
                pruned.append(Pruned(words.path(living, path), divergence, log_probability))
            dropped_P = dropped_P & (living.js_BP[0] <= threshold)
        outranked, fallbacks = outranked + int(dropped_P.sum()), fallbacks + int(fallback_B.sum())
    pruned.sort(key=lambda path: -path.log_probability)
    newest = [words.title(row) for row in history[::-1][:NEWEST].tolist()]
    return Explanation(user, newest, len(history), recommended, pruned, outranked, fallbacks, threshold)


class _Words:
    """What tokens, categories and items are called; a token is named once."""

    def __init__(self, recommender: Recommender):
        self.items, self.size = recommender.items, recommender.model.config.codebook_size
        self.names = TokenNames(recommender.tokenizer, recommender.items)
        self.known: dict[tuple[int, int], tuple[list[str], list[str]]] = {}

    def title(self, row: int) -> str:
        """An item's title, its id where it has none."""
        return str(self.items.table["title"][row].as_py() or self.items.ids[row].as_py())

    def path(self, paths: Paths | Living, place: int) -> list[Step]:
        """The steps of one path of the first user."""
        tokens, order, _, categories, confidences = (x[0, place].tolist() for x in paths[:5])
        steps = []
        for i, codebook in enumerate(order):
            if codebook >= 0:
                category = categories[i] if i < len(categories) else -1
                name = None if category < 0 else self.items.category_names[category]
                steps.append(Step(*self._token(codebook, tokens[codebook]), name, confidences[i]))
        return steps

    def _token(self, codebook: int, code: int) -> tuple[str, list[str], list[str]]:
        if (codebook, code) not in self.known:
            nearest = [self.title(row) for row in self.names.nearest_items(codebook, code)]
            self.known[codebook, code] = (self.names.words_of(codebook, code), nearest)
        return (f"<t{codebook}_{code}>", *self.known[codebook, code])


def _found_by(item: Recommended) -> str:
    return "" if item.path else f"  (no path: {item.source})"


def _step_line(step: Step) -> str:
    category = "" if step.category is None else f" -> {step.category}"
    return (
        f"{step.token} {', '.join(step.words) or NO_WORDS} ({step.confidence:.1%}){category}; "
        f"like {'; '.join(step.nearest)}"
    )


def _turn(path: Pruned) -> str:
    """From which category to which the last step moved."""
    before, after = (step.category for step in path.steps[-2:])
    return f"stayed with {after}" if before == after else f"{before} -> {after}"


def _item_html(item: Recommended) -> str:
    path = f"<ol>{''.join(map(_step_html, item.path))}</ol>" if item.path else "<p>No path led here.</p>"
    facts = f"item {item.item_id}, score {item.score:.3f}, by {item.source}"
    title = f"{item.rank}. {html.escape(item.title)}"
    return f'<section><h2>{title}</h2>\n<p class="quiet">{html.escape(facts)}</p>\n{path}</section>\n'


def _step_html(step: Step) -> str:
    words = html.escape(", ".join(step.words) or NO_WORDS)
    category = "" if step.category is None else f" &rarr; {html.escape(step.category)}"
    nearest = f'<p class="quiet">like {html.escape("; ".join(step.nearest))}</p>'
    return f"<li><b>{words}</b> <code>{html.escape(step.token)}</code> {step.confidence:.1%}{category}{nearest}</li>"


def _pruned_html(path: Pruned) -> str:
    steps = "<br>".join(
        f"<code>{html.escape(step.token)}</code> {html.escape(', '.join(step.words))}" for step in path.steps
    )
    cells = f'<td class="number">{path.divergence:.3f}<td class="number">{path.log_probability:.2f}'
    return f'<tr><td>{steps}<td class="text">{html.escape(_turn(path))}{cells}</tr>'
