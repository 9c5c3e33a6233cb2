"""Why a user gets these items: the click that mattered most for each, a path in words, and paths that CORP drops."""

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from reg4rec import ops
from reg4rec.data import ItemCatalog, Sequences
from reg4rec.model import encoded_histories, padded
from reg4rec.page import html_page
from reg4rec.recommend.filters import find_items
from reg4rec.recommend.recommender import Recommender
from reg4rec.recommend.table import results_arrow
from reg4rec.search.beam import Living, Paths
from reg4rec.tokenizer import TokenNames

__all__ = ["Explanation", "Pruned", "Recommended", "Step", "explain"]

NEWEST = 10
"""How many of the newest history items are listed."""
NO_WORDS = "no typical words"
AS_BEFORE = "the same words"
LISTED = 10
"""How many pruned paths the text and the page list; the explanation has all of them."""


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
class Recommended:
    """One item and its path. `source`: how the item was found; if it is "item score", the path only describes the item.

    The path is empty if the path search ran and no path led to the item. `consistent`: whether CORP would keep the
    path. `because`: the history item without which this item's score would be lowest; None if every removal would raise
    the score, and in models that do not score items.
    """

    rank: int
    item_id: Any
    title: str
    score: float
    source: str
    path: list[Step]
    consistent: bool = True
    because_id: Any = None
    because: str | None = None


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
    `retriever`: how the items were found; "exact" searches no paths, so it drops none.
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

    def __repr__(self) -> str:
        return f"Explanation(user {self.user!r}: {len(self.recommended)} items, retriever {self.retriever!r})"

    def _repr_html_(self) -> str:
        page = html.escape(self.html())
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 32rem; border: 0"></iframe>'

    def as_dict(self) -> dict[str, Any]:
        """The explanation as a dictionary of JSON values."""
        return asdict(self)

    def text(self) -> str:
        """The explanation as plain text."""
        lines = [self._heading(), f"newest first: {self._newest()}"]
        for item in self.recommended:
            lines += ["", f"{item.rank}. {item.title}  {item.score:.3f}{_remark(item)}"]
            lines += [] if item.because is None else [f"   because you clicked {item.because}"]
            lines += [f"   {_step_line(step)}" for step in _said_once(item.path)]
        lines += ["", self._dropped()]
        for path in self.pruned[:LISTED]:
            tokens = " + ".join(f"{step.token} {', '.join(step.words)}".rstrip() for step in _said_once(path.steps))
            lines.append(f"   {tokens}: {_turn(path)}, divergence {path.divergence:.3f}")
        lines += [f"   {self._more()}"] if self._more() else []
        return "\n".join(lines)

    def html(self) -> str:
        """The explanation as an HTML page without external files."""
        items = "".join(_item_html(item) for item in self.recommended)
        newest = html.escape(self._newest())
        dropped = ""
        if self.pruned:
            head = "<tr><th>path<th>category<th>divergence<th>log-probability</tr>"
            rows = "".join(_pruned_html(path) for path in self.pruned[:LISTED])
            dropped = f'<div class="table"><table>{head}{rows}</table></div>{self._more()}'
        body = (
            f"<p>Newest first: {newest}</p>\n{items}<section><h2>{self._title_of_dropped()}</h2>"
            f"<p>{html.escape(self._dropped())}</p>{dropped}</section>\n"
        )
        return html_page(self._heading(), body)

    def _heading(self) -> str:
        return f"{self.user}: {self.history_length} items, {len(self.recommended)} recommended"

    def _newest(self) -> str:
        rest = f"; ... ({len(self.newest)} of {self.history_length})" if len(self.newest) < self.history_length else ""
        return f"{'; '.join(self.newest) or 'nothing'}{rest}"

    def _more(self) -> str:
        return f"... ({LISTED} of {len(self.pruned)})" if len(self.pruned) > LISTED else ""

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
        shown = f", the {LISTED} most probable of them below" if len(self.pruned) > LISTED else ""
        return (
            f"Paths that CORP dropped, because their category changed by more than {self.threshold:g} nats: "
            f"{len(self.pruned)}{shown}; steps at which no path was consistent and the least divergent one was kept: "
            f"{self.fallbacks}; paths dropped because better ones took their place: {self.outranked}"
        )


def explain(
    recommender: Recommender, item_ids: Sequence[Any], k: int = 5, user: str = "this user", filter_seen: bool = True
) -> Explanation:
    """Recommend `k` items for one history (item ids, oldest first) and explain each by a path in words.

    The items are those of `Recommender.recommend`. InputError for ids that are not in the catalog.
    """
    history = find_items(item_ids, recommender.items, "items")
    threshold = recommender.config.prune_threshold if recommender.model.category_head is not None else None
    newest = [_title(recommender.items, row) for row in history[::-1][:NEWEST].tolist()]
    if recommender.retriever == "exact":
        recommended = _described(recommender, history, k, user, filter_seen, threshold)
        return Explanation(user, newest, len(history), recommended, [], 0, 0, threshold, "exact")
    trace: list[Living] = []
    (results,) = recommender.search(Sequences.from_lists([history]), k, filter_seen, trace=trace)
    words = _Words(recommender)
    found = results_arrow(pa.array([user]), recommender.items, [results]).drop_columns(["user_id"]).to_pylist()
    rows = results.ranking.items_BN[0].tolist()
    paths = [words.path(results.paths, w) if w >= 0 else [] for w in results.ranking.path_BN[0].tolist()]
    causes = _causes(recommender, history, results.ranking.items_BN[0])
    recommended = [
        Recommended(**row, title=words.title(item), path=path, **words.because(cause))
        for row, item, path, cause in zip(found, rows, paths, causes, strict=False)
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
    return Explanation(user, newest, len(history), recommended, pruned, outranked, fallbacks, threshold)


def _described(
    recommender: Recommender,
    history: npt.NDArray[np.int32],
    k: int,
    user: str,
    filter_seen: bool,
    threshold: float | None,
) -> list[Recommended]:
    """The items with the highest scores, each with the path of the item's tokens."""
    sequences, words = Sequences.from_lists([history]), _Words(recommender)
    (results,) = recommender.results(sequences, k, filter_seen)
    paths, js_BNS = recommender.reasons(sequences, results.ranking.items_BN)
    found = results_arrow(pa.array([user]), recommender.items, [results]).drop_columns(["user_id"]).to_pylist()
    causes = _causes(recommender, history, results.ranking.items_BN[0])
    recommended = []
    for place, row in enumerate(found):
        moved = js_BNS[0, place].tolist()
        steps = words.path(paths, place)
        for at, js in enumerate(moved, start=1):
            steps[at] = replace(steps[at], divergence=js)
        consistent = threshold is None or all(js <= threshold for js in moved)
        title = words.title(int(results.ranking.items_BN[0, place]))
        because = words.because(causes[place])
        recommended.append(Recommended(**row, title=title, path=steps, consistent=consistent, **because))
    return recommended


@torch.inference_mode()
def _causes(recommender: Recommender, history: npt.NDArray[np.int32], items_N: torch.Tensor) -> list[int]:
    """For each item (rows, -1 for none) the history item without which its score would be lowest, or -1.

    Leaves out all clicks on one item at a time and encodes the remaining history again.
    """
    read = np.unique(history[-recommender.model.config.max_history :])
    if not (recommender.model.scores_items and len(read)):
        return [-1] * len(items_N)
    histories = Sequences.from_lists([history, *(history[history != row] for row in read)])
    user_BN, item_BN = torch.meshgrid(torch.arange(len(histories)).to(items_N), items_N.clamp(min=0), indexing="ij")
    model, codes_IM = recommender.model, recommender.codes_IM
    state_BD = encoded_histories(model, codes_IM, histories).state_BD
    history_BX = padded(histories, -1).to(items_N.device)
    item_T = item_BN.flatten()
    scores_T = model.score_items(state_BD, history_BX, user_BN.flatten(), codes_IM[item_T], item_T)
    whole_1N, without_BN = scores_T.view(user_BN.shape).tensor_split([1])
    lowest_N, place_N = without_BN.min(0)
    return np.where(((lowest_N < whole_1N[0]) & (items_N >= 0)).cpu(), read[place_N.cpu()], -1).tolist()


class _Words:
    """Names of tokens, categories and items; the names of a token are looked up once."""

    def __init__(self, recommender: Recommender):
        self.items, self.size = recommender.items, recommender.model.config.codebook_size
        self.names = TokenNames(recommender.tokenizer, recommender.items)
        self.known: dict[tuple[int, int], tuple[list[str], list[str]]] = {}

    def title(self, row: int) -> str:
        return _title(self.items, row)

    def because(self, row: int) -> dict[str, Any]:
        """The fields of `Recommended` that name the item in this row as the cause; none for -1."""
        return {} if row < 0 else {"because_id": self.items.ids[row].as_py(), "because": self.title(row)}

    def path(self, paths: Paths | Living, place: int) -> list[Step]:
        """The steps of path number `place` of the first user."""
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


def _title(items: ItemCatalog, row: int) -> str:
    """An item's title, or its id if it has none."""
    return str(items.table["title"][row].as_py() or items.ids[row].as_py())


def _remark(item: Recommended) -> str:
    if not item.path:
        return f"  (no path: {item.source})"
    return "" if item.consistent else "  (CORP would drop its path)"


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
    path = f"<ol>{steps}</ol>" if item.path else "<p>No path led here.</p>"
    because = "" if item.because is None else f"<p>Because you clicked {html.escape(item.because)}.</p>\n"
    facts = f"item {item.item_id}, score {item.score:.3f}, by {item.source}"
    facts += "" if item.consistent else ", CORP would drop its path"
    title = f"{item.rank}. {html.escape(item.title)}"
    return f'<section><h2>{title}</h2>\n<p class="quiet">{html.escape(facts)}</p>\n{because}{path}</section>\n'


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
