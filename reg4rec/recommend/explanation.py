"""What `reg4rec.explain` returns: one user's recommendations with their reasons, as data, text and an HTML page."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from textwrap import shorten
from typing import Any

from reg4rec.page import html_page

__all__ = ["Cause", "Explanation", "Pruned", "Recommended", "Step", "WhatIf", "WhyNot"]

NO_WORDS = "no typical words"
AS_BEFORE = "the same words"
LISTED = 10
"""How many pruned paths the text and the page list; the explanation has all of them."""
ALSO = 0.5
"""The second strongest cause is named too if its effect is at least this share of the strongest one's."""

TITLE = 60
"""The longest title, in characters, in a sentence for a customer."""


@dataclass(frozen=True)
class Step:
    """One token of a path: its words, titles of the items nearest to it, the category predicted after it (None if none
    was), and the probability with which it was chosen. `divergence` (nats): how much this token changed the category
    distribution; None for the first token, and if the path search found the item."""

    token: str
    words: list[str]
    nearest: list[str]
    category: str | None
    confidence: float
    divergence: float | None = None


@dataclass(frozen=True)
class Cause:
    """A history item, and by how much an item's score would fall without it; below 0 if the score would rise."""

    item_id: Any
    title: str
    effect: float


@dataclass(frozen=True)
class Recommended:
    """One item and its path. `source`: how the item was found; if it is "item score", the path only describes the item.

    The path is empty if the path search ran and no path led to the item, or if paths were not asked for.
    `consistent`: whether CORP would keep the path. `raised_by`: the history items without which the score would be
    lower, strongest first, at most three; empty in models that do not score items.
    """

    rank: int
    item_id: Any
    title: str
    score: float
    source: str
    path: list[Step]
    consistent: bool = True
    raised_by: list[Cause] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """One sentence for a customer; it names one or two items of the history, or none if none raised the score."""
        if not self.raised_by:
            return "Chosen for you."
        named = [cause.title for cause in self.raised_by[:2] if cause.effect >= ALSO * self.raised_by[0].effect]
        return f"Because you chose {' and '.join(shorten(title, TITLE, placeholder='...') for title in named)}."


@dataclass(frozen=True)
class WhyNot:
    """Why an item is not among the recommendations, in a sentence.

    rank, score: the item's place among all that the user may get; None if it may not be recommended or does not rank
    among the first 1,000. raised_by, lowered_by: history items that raise or lower its score, strongest first, at most
    three each.
    """

    item_id: Any
    title: str
    reason: str
    rank: int | None = None
    score: float | None = None
    raised_by: list[Cause] = field(default_factory=list)
    lowered_by: list[Cause] = field(default_factory=list)


@dataclass(frozen=True)
class WhatIf:
    """What would change if the user had not chosen an item: which recommendations would leave and which would enter."""

    item_id: Any
    title: str
    leaving: list[str]
    entering: list[str]


@dataclass(frozen=True)
class Pruned:
    """A path that CORP dropped after `steps`: its last two category distributions diverge by `divergence` nats."""

    steps: list[Step]
    divergence: float
    log_probability: float


@dataclass(frozen=True)
class Explanation:
    """The explanation of one user's recommendations. Items appear by title, or by id if they have none.

    `outranked`: number of consistent paths that were dropped for better ones. `fallbacks`: number of steps at which no
    path was consistent and the least divergent one was kept. `threshold`: CORP's theta, None if CORP is off.
    `retriever`: how the items were found; "exact" searches no paths, so it drops none. `what_if`: an entry for each of
    the newest history items, without items that occur twice. `why_not`: an entry for each item that was asked about.
    """

    user: str
    newest: list[str]
    history_length: int
    recommended: list[Recommended]
    pruned: list[Pruned]
    outranked: int
    fallbacks: int
    threshold: float | None
    retriever: str = "paths"
    what_if: list[WhatIf] = field(default_factory=list)
    why_not: list[WhyNot] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Explanation(user {self.user!r}: {len(self.recommended)} items, retriever {self.retriever!r})"

    def _repr_html_(self) -> str:
        page = html.escape(self.html())
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 32rem; border: 0"></iframe>'

    def as_dict(self) -> dict[str, Any]:
        """The explanation as a dictionary of JSON values, with each item's `sentence`."""
        values = asdict(self)
        for item, entry in zip(self.recommended, values["recommended"], strict=True):
            entry["sentence"] = item.sentence
        return values

    def text(self) -> str:
        """The explanation as plain text."""
        lines = [self._heading(), f"newest first: {self._newest()}"]
        for item in self.recommended:
            lines += ["", f"{item.rank}. {item.title}  {item.score:.3f}{_remark(item)}"]
            lines += [f"   {item.sentence}"] if item.raised_by else []
            lines += [f"   {_step_line(step)}" for step in _said_once(item.path)]
        if self.what_if:
            lines += ["", *(f"Without {change.title}: {_change(change)}" for change in self._changes())]
            lines += [self._unchanged()] if self._unchanged() else []
        for other in self.why_not:
            lines += ["", f"Why not {other.title}? {other.reason}", *(f"   {line}" for line in _influences(other))]
        lines += ["", self._dropped()]
        for path in self._pruned_in_words():
            tokens = " + ".join(f"{step.token} {', '.join(step.words)}".rstrip() for step in _said_once(path.steps))
            lines.append(f"   {tokens}: {_turn(path)}, divergence {path.divergence:.3f}")
        lines += [f"   {self._more()}"] if self._more() else []
        return "\n".join(lines)

    def html(self) -> str:
        """The explanation as an HTML page without external files."""
        items = "".join(_item_html(item) for item in self.recommended)
        newest = html.escape(self._newest())
        dropped = ""
        if self._pruned_in_words():
            head = "<tr><th>path<th>category<th>divergence<th>log-probability</tr>"
            rows = "".join(_pruned_html(path) for path in self._pruned_in_words())
            dropped = f'<div class="table"><table>{head}{rows}</table></div>{self._more()}'
        body = (
            f"<p>Newest first: {newest}</p>\n{items}{self._what_if_html()}{''.join(map(_why_not_html, self.why_not))}"
            f"<section><h2>{self._title_of_dropped()}</h2><p>{html.escape(self._dropped())}</p>{dropped}</section>\n"
        )
        return html_page(self._heading(), body)

    def _heading(self) -> str:
        return f"{self.user}: {self.history_length} items, {len(self.recommended)} recommended"

    def _newest(self) -> str:
        rest = f"; ... ({len(self.newest)} of {self.history_length})" if len(self.newest) < self.history_length else ""
        return f"{'; '.join(self.newest) or 'nothing'}{rest}"

    def _changes(self) -> list[WhatIf]:
        return [change for change in self.what_if if change.leaving or change.entering]

    def _unchanged(self) -> str:
        same = [change.title for change in self.what_if if not (change.leaving or change.entering)]
        return f"Without any one of these the same items are recommended: {'; '.join(same)}" if same else ""

    def _what_if_html(self) -> str:
        if not self.what_if:
            return ""
        lines = (f"<li>Without {html.escape(f'{change.title}: {_change(change)}.')}" for change in self._changes())
        listed = f"<ul>{''.join(lines)}</ul>" if self._changes() else ""
        return f"<section><h2>What if</h2>{listed}<p>{html.escape(self._unchanged())}</p></section>\n"

    def _pruned_in_words(self) -> list[Pruned]:
        return [path for path in self.pruned[:LISTED] if path.steps]

    def _more(self) -> str:
        listed = len(self._pruned_in_words())
        return f"... ({listed} of {len(self.pruned)})" if 0 < listed < len(self.pruned) else ""

    def _title_of_dropped(self) -> str:
        return "About the paths" if self.retriever == "exact" else "Dropped paths"

    def _dropped(self) -> str:
        if self.retriever == "exact":
            found = "The items were found by their scores. A path describes its item but did not select it"
            if self.threshold is None:
                return f"{found}; CORP is off, so it would drop none."
            count = sum(not item.consistent for item in self.recommended)
            return f"{found}; CORP would drop {count}, whose category changes by more than {self.threshold:g} nats."
        if self.threshold is None:
            return "CORP is off: no path was dropped for its categories"
        shown = f", the {LISTED} most probable of them below" if self._more() else ""
        return (
            f"Paths that CORP dropped, because their category changed by more than {self.threshold:g} nats: "
            f"{len(self.pruned)}{shown}; steps at which no path was consistent and the least divergent one was kept: "
            f"{self.fallbacks}; paths dropped because better ones took their place: {self.outranked}"
        )


def _remark(item: Recommended) -> str:
    if not item.path and item.source != "item score":
        return f"  (no path: {item.source})"
    return "" if item.consistent else "  (CORP would drop its path)"


def _change(change: WhatIf) -> str:
    parts = (("would leave", change.leaving), ("would enter", change.entering))
    return ", ".join(f"{'; '.join(titles)} {verb}" for verb, titles in parts if titles)


def _influences(other: WhyNot) -> list[str]:
    """The history items that raise and lower the score of an item, as sentences."""
    parts = (("raised", other.raised_by), ("lowered", other.lowered_by))
    return [f"Its score is {verb} by {_named(causes)}." for verb, causes in parts if causes]


def _named(causes: Sequence[Cause]) -> str:
    return "; ".join(f"{cause.title} ({abs(cause.effect):.2f})" for cause in causes)


def _said_once(steps: list[Step]) -> list[Step]:
    """The steps of a path, each without words of earlier steps."""
    said: set[str] = set()
    told = []
    for step in steps:
        new = [word for word in step.words if word not in said]
        told.append(replace(step, words=new or [AS_BEFORE] * bool(step.words)))
        said.update(step.words)
    return told


def _step_line(step: Step) -> str:
    category = "" if step.category is None else f" -> {step.category}"
    category += "" if step.divergence is None else f" (moved by {step.divergence:.3f} nats)"
    return (
        f"{step.token} {', '.join(step.words) or NO_WORDS} ({step.confidence:.1%}){category}; "
        f"like {'; '.join(step.nearest)}"
    )


def _turn(path: Pruned) -> str:
    """The categories before and after the last step."""
    before, after = (step.category for step in path.steps[-2:])
    return f"stayed with {after}" if before == after else f"{before} -> {after}"


def _item_html(item: Recommended) -> str:
    steps = "".join(map(_step_html, _said_once(item.path)))
    path = f"<ol>{steps}</ol>" if item.path or item.source == "item score" else "<p>No path led here.</p>"
    because = f"<p>{html.escape(item.sentence)}</p>\n" if item.raised_by else ""
    facts = f"item {item.item_id}, score {item.score:.3f}, by {item.source}"
    facts += "" if item.consistent else ", CORP would drop its path"
    title = f"{item.rank}. {html.escape(item.title)}"
    return f'<section><h2>{title}</h2>\n<p class="quiet">{html.escape(facts)}</p>\n{because}{path}</section>\n'


def _why_not_html(other: WhyNot) -> str:
    lines = "".join(f"<br>{html.escape(line)}" for line in _influences(other))
    return f"<section><h2>Why not {html.escape(other.title)}?</h2><p>{html.escape(other.reason)}{lines}</p></section>\n"


def _step_html(step: Step) -> str:
    words = html.escape(", ".join(step.words) or NO_WORDS)
    category = "" if step.category is None else f" &rarr; {html.escape(step.category)}"
    nearest = f'<p class="quiet">like {html.escape("; ".join(step.nearest))}</p>'
    return f"<li><b>{words}</b> <code>{html.escape(step.token)}</code> {step.confidence:.1%}{category}{nearest}</li>"


def _pruned_html(path: Pruned) -> str:
    steps = "<br>".join(
        f"<code>{html.escape(step.token)}</code> {html.escape(', '.join(step.words))}"
        for step in _said_once(path.steps)
    )
    cells = f'<td class="number">{path.divergence:.3f}<td class="number">{path.log_probability:.2f}'
    return f'<tr><td>{steps}<td class="text">{html.escape(_turn(path))}{cells}</tr>'
