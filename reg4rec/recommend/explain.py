"""Why a user gets these items: the history items behind each, a path in words, and paths that CORP drops."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import Sequences
from reg4rec.model import encoded_histories, padded
from reg4rec.recommend.explanation import Cause, Explanation, Pruned, Recommended, Step, WhatIf, WhyNot
from reg4rec.recommend.filters import Unknown, allowed_of, find_items
from reg4rec.recommend.recommender import Recommender
from reg4rec.recommend.table import results_arrow
from reg4rec.search.beam import Living, Paths

__all__ = ["explain"]

NEWEST = 10
"""How many of the newest history items are listed and left out in turn for `what_if`."""
CAUSES = 3
"""How many history items are named as causes."""
DEPTH = 1000
"""The largest rank that is told for an item that is not recommended."""

Int32 = npt.NDArray[np.int32]


def explain(
    recommender: Recommender,
    item_ids: Sequence[Any],
    k: int = 5,
    user: str = "this user",
    filter_seen: bool = True,
    exclude: Sequence[Any] | None = None,
    candidates: Sequence[Any] | None = None,
    why_not: Sequence[Any] = (),
    unknown: Unknown = "error",
    paths: bool = True,
) -> Explanation:
    """Recommend `k` items for one history (item ids, oldest first), and say why it is these and not others.

    The items are those of `Recommender.recommend` with the same filters. Each has a path in words and the history items
    that raised its score; `why_not` (item ids) asks about further items. Effects of history items are exact: all
    choices of an item are left out and the rest is encoded again. InputError for ids that are not in the catalog; with
    `unknown` "ignore" they are left out. With `paths` off no path is put into words, for which the words of all items
    are counted at the first call (seconds in large catalogs).
    """
    history = find_items(item_ids, recommender.items, "items", unknown)
    asked = find_items(why_not, recommender.items, "why_not", unknown)
    offered, excluded = (
        None if ids is None else find_items(ids, recommender.items, role, unknown)
        for ids, role in ((candidates, "candidates"), (exclude, "exclude"))
    )
    allowed = allowed_of(len(recommender.items), offered, excluded)
    narrowed = recommender if allowed is None else recommender.with_rows(allowed, one_off=True)
    one = _One(narrowed, history, k, filter_seen, paths)
    newest = [one.title(row) for row in history[::-1][:NEWEST].tolist()]
    refused = _refusals(recommender, asked, history if filter_seen else None, excluded, offered)
    found = one.scored() if narrowed.retriever == "exact" else one.searched()
    return Explanation(
        user, newest, len(history), *found, narrowed.retriever, one.what_if(), one.why_not(asked, refused)
    )


class _One:
    """One history, and the recommender that explains it."""

    def __init__(self, recommender: Recommender, history: Int32, k: int, filter_seen: bool, in_words: bool):
        self.recommender, self.history, self.k, self.filter_seen = recommender, history, k, filter_seen
        self.in_words = in_words
        self.sequences = Sequences.from_lists([history])
        has_categories = recommender.model.category_head is not None
        self.threshold = recommender.config.prune_threshold if has_categories else None

    def scored(self) -> tuple[list[Recommended], list[Pruned], int, int, float | None]:
        """The items with the highest scores, each with the path of the item's tokens."""
        (results,) = self.recommender.results(self.sequences, self.k, self.filter_seen)
        items_BN = results.ranking.items_BN
        if not self.in_words:
            rows = zip(self._rows(results), self.causes(items_BN[0]), strict=False)
            recommended = [Recommended(**row, path=[], raised_by=_strongest(causes)) for row, causes in rows]
            return recommended, [], 0, 0, self.threshold
        paths, js_BNS = self.recommender.reasons(self.sequences, items_BN)
        recommended = []
        for place, (row, causes) in enumerate(zip(self._rows(results), self.causes(items_BN[0]), strict=False)):
            moved = js_BNS[0, place].tolist()
            steps = self.path(paths, place)
            for at, js in enumerate(moved, start=1):
                steps[at] = replace(steps[at], divergence=js)
            consistent = self.threshold is None or all(js <= self.threshold for js in moved)
            recommended.append(Recommended(**row, path=steps, consistent=consistent, raised_by=_strongest(causes)))
        return recommended, [], 0, 0, self.threshold

    def searched(self) -> tuple[list[Recommended], list[Pruned], int, int, float | None]:
        """The items that paths lead to, and the paths that the search dropped."""
        trace: list[Living] = []
        (results,) = self.recommender.search(self.sequences, self.k, self.filter_seen, trace=trace)
        paths = [self.path(results.paths, w) if w >= 0 else [] for w in results.ranking.path_BN[0].tolist()]
        recommended = [
            Recommended(**row, path=path, raised_by=_strongest(causes))
            for row, path, causes in zip(
                self._rows(results), paths, self.causes(results.ranking.items_BN[0]), strict=False
            )
        ]
        pruned, outranked, fallbacks = [], 0, 0
        for living in trace:
            num_beams = results.paths.scores_BW.shape[1]
            kept_BP, fallback_B = ops.prune_paths(living.scores_BP, living.js_BP, num_beams, self.threshold)
            dropped_P = ((living.scores_BP > -torch.inf) & ~kept_BP)[0]
            if self.threshold is not None and living.js_BP is not None:
                for path in (dropped_P & (living.js_BP[0] > self.threshold)).nonzero().flatten().tolist():
                    divergence, log_probability = float(living.js_BP[0, path]), float(living.scores_BP[0, path])
                    pruned.append(Pruned(self.path(living, path), divergence, log_probability))
                dropped_P = dropped_P & (living.js_BP[0] <= self.threshold)
            outranked, fallbacks = outranked + int(dropped_P.sum()), fallbacks + int(fallback_B.sum())
        pruned.sort(key=lambda path: -path.log_probability)
        return recommended, pruned, outranked, fallbacks, self.threshold

    def what_if(self) -> list[WhatIf]:
        """How the list changes without each of the newest history items; an item left out is not recommended itself."""
        newest = list(dict.fromkeys(self.history[::-1].tolist()))[:NEWEST]
        histories = [self.history, *(self.history[self.history != row] for row in newest)]
        whole, *others = (
            ranked[ranked >= 0].tolist()
            for ranked in self.recommender.rank(Sequences.from_lists(histories), self.k + 1, self.filter_seen)
        )
        whole, changes = whole[: self.k], []
        for row, ranked in zip(newest, others, strict=True):
            without = [item for item in ranked if item != row or not self.filter_seen][: self.k]
            leaving, entering = (
                [self.title(item) for item in some if item not in rest]
                for some, rest in ((whole, without), (without, whole))
            )
            changes.append(WhatIf(self._id(row), self.title(row), leaving, entering))
        return changes

    def why_not(self, asked: Int32, refused: list[str | None]) -> list[WhyNot]:
        """Where each of these items (rows) ranks and which history items matter for it; `refused`: a reason or None."""
        if not len(asked):
            return []
        (results,) = self.recommender.results(self.sequences, max(DEPTH, self.k), self.filter_seen)
        items_N, scores_N = results.ranking.items_BN[0].tolist(), results.ranking.scores_BN[0].tolist()
        last = min(self.k, sum(item >= 0 for item in items_N)) - 1
        answers = []
        for row, reason, causes in zip(
            asked.tolist(), refused, self.causes(torch.from_numpy(asked).to(results.ranking.items_BN)), strict=True
        ):
            influences = _strongest(causes), _strongest(causes, sign=-1)
            rank, score = None, None
            if reason is None and row in items_N:
                place = items_N.index(row)
                rank, score = place + 1, scores_N[place]
                reason = f"It is recommended, at rank {rank}."
                if place > last:
                    ended = f"the score of the last recommended item is {scores_N[last]:.3f}"
                    reason = f"It ranks {rank}: its score is {score:.3f}, {ended}."
            reason = reason or f"It does not rank among the first {DEPTH:,}."
            answers.append(WhyNot(self._id(row), self.title(row), reason, rank, score, *influences))
        return answers

    @cached_property
    def read(self) -> Int32:
        """The history items that the model reads, each once."""
        return np.unique(self.history[-self.recommender.model.config.max_history :])

    @cached_property
    def left_out(self) -> tuple[Sequences, Tensor]:
        """The history, then the histories without each of `read`, and their encoder states."""
        histories = Sequences.from_lists([self.history, *(self.history[self.history != row] for row in self.read)])
        with torch.inference_mode():
            memory = encoded_histories(self.recommender.model, self.recommender.codes_IM, histories)
        return histories, memory.state_BD

    @torch.inference_mode()
    def causes(self, items_N: Tensor) -> list[list[Cause]]:
        """For each item (rows, -1 for none) the effect of every history item that the model reads."""
        model, codes_IM = self.recommender.model, self.recommender.codes_IM
        if not (model.scores_items and len(self.read)):
            return [[] for _ in items_N]
        histories, state_BD = self.left_out
        user_BN, item_BN = torch.meshgrid(torch.arange(len(histories)).to(items_N), items_N.clamp(min=0), indexing="ij")
        history_BX = padded(histories, -1).to(items_N.device)
        item_T = item_BN.flatten()
        scores_T = model.score_items(state_BD, history_BX, user_BN.flatten(), codes_IM[item_T], item_T)
        whole_1N, without_BN = scores_T.view(user_BN.shape).tensor_split([1])
        effects_NB = (whole_1N - without_BN).T.tolist()
        named = [(self._id(row), self.title(row)) for row in self.read.tolist()]
        return [[Cause(*name, effect) for name, effect in zip(named, effects, strict=True)] for effects in effects_NB]

    def title(self, row: int) -> str:
        """An item's title, or its id if it has none."""
        return str(self.recommender.items.table["title"][row].as_py() or self._id(row))

    def path(self, paths: Paths | Living, place: int) -> list[Step]:
        """The steps of path number `place` of the first user; none if paths are not asked for."""
        if not self.in_words:
            return []
        tokens, order, _, categories, confidences = (x[0, place].tolist() for x in paths[:5])
        steps = []
        for i, codebook in enumerate(order):
            if codebook >= 0:
                category = categories[i] if i < len(categories) else -1
                name = None if category < 0 else self.recommender.items.category_names[category]
                steps.append(Step(*self._token(codebook, tokens[codebook]), name, confidences[i]))
        return steps

    def _rows(self, results: Any) -> list[dict[str, Any]]:
        """The fields rank, item_id, title, score and source of each recommended item."""
        table = results_arrow(pa.array([0]), self.recommender.items, [results]).drop_columns(["user_id"])
        titles = map(self.title, results.ranking.items_BN[0].tolist())
        return [row | {"title": title} for row, title in zip(table.to_pylist(), titles, strict=False)]

    def _id(self, row: int) -> Any:
        return self.recommender.items.ids[row].as_py()

    def _token(self, codebook: int, code: int) -> tuple[str, list[str], list[str]]:
        names = self.recommender.live.names
        nearest = [self.title(row) for row in names.nearest_items(codebook, code)]
        return f"<t{codebook}_{code}>", names.words_of(codebook, code), nearest


def _strongest(causes: list[Cause], sign: int = 1) -> list[Cause]:
    """The causes with the largest effects of this sign; of equal effects the item of the lower row comes first."""
    of_sign = (cause for cause in causes if sign * cause.effect > 0)
    return sorted(of_sign, key=lambda cause: -sign * cause.effect)[:CAUSES]


def _refusals(
    recommender: Recommender, asked: Int32, seen: Int32 | None, excluded: Int32 | None, offered: Int32 | None
) -> list[str | None]:
    """For each item that is asked about, the sentence why the user may not get it, or None."""
    is_removed_I = recommender.live.removed_I.cpu().numpy()
    refusing = (
        (is_removed_I[asked], "It was removed, or `only` left it out."),
        (np.isin(asked, [] if seen is None else seen), "It is in the history, and seen items are not recommended."),
        (np.isin(asked, [] if excluded is None else excluded), "It is excluded."),
        (~np.isin(asked, asked if offered is None else offered), "It is not among the candidates."),
    )
    return [next((why for is_refused, why in refusing if is_refused[at]), None) for at in range(len(asked))]
