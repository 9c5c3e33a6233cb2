"""`reg4rec explain`: explanations of one user's recommendations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import tyro

from reg4rec.cli.commands import trained_on
from reg4rec.cli.output import show
from reg4rec.data import Dataset
from reg4rec.errors import InputError
from reg4rec.recommend import Recommender, explain
from reg4rec.settings import check_settings
from reg4rec.writing import atomic_file

__all__ = ["Explain"]

FILTERS = ("exclude", "candidates", "why_not")


@dataclass(frozen=True)
class Explain:
    """Why one user gets these items, and others not: `reg4rec explain --model DIR --data ml-100k --user 7`."""

    model: Path
    """recommender folder"""
    data: str | None = None
    """the dataset that it was trained on, for --user"""
    user: str | None = None
    """id of a user in --data, whose whole history is used"""
    items: tuple[str, ...] = ()
    """item ids, oldest first, as a history instead of a user's"""
    why_not: tuple[str, ...] = ()
    """item ids: also say why these are not recommended"""
    candidates: tuple[str, ...] = ()
    """item ids: recommend only these"""
    exclude: tuple[str, ...] = ()
    """item ids: recommend none of these"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 5
    """number of items to recommend"""
    theta: float | None = None
    """CORP's threshold in nats, instead of the recommender's own"""
    html: Path | None = None
    """also write the explanation as an HTML page"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        check_settings(self, ("theta", self.theta is None or self.theta >= 0, "0 nats or more"))
        recommender, history, user = self._asked_for()
        if self.theta is not None:
            recommender = recommender.with_search(prune_threshold=self.theta)
        kind = recommender.items.ids.type
        exclude, candidates, why_not = (_typed(getattr(self, name), kind, name) for name in FILTERS)
        explanation = explain(
            *(recommender, history, self.k, user),
            exclude=exclude,
            candidates=candidates or None,
            why_not=why_not,
        )
        text = explanation.text()
        if self.html is not None:
            with atomic_file(self.html) as fresh:
                fresh.write_text(explanation.html(), encoding="utf-8")
            text += f"\n\n{self.html}"
        show(text, explanation.as_dict(), self.json)

    def _asked_for(self) -> tuple[Recommender, list[Any], str]:
        """The recommender, the item ids of the history, and the history's owner in words."""
        if bool(self.items) == (self.user is not None) or (self.user is not None and self.data is None):
            raise InputError("explain needs one history; give either --data and --user, or --items")
        if self.user is None:
            recommender = Recommender.from_pretrained(self.model, self.device)
            return recommender, _typed(self.items, recommender.items.ids.type, "items"), "these items"
        recommender, data = trained_on(self.model, str(self.data), self.device)
        return recommender, _history_of(self.user, data), f"user {self.user}"


def _history_of(user: str, data: Dataset) -> list[Any]:
    """The item ids of a user's whole history; InputError for an unknown user."""
    (wanted,) = _typed((user,), data.user_ids.type, "user")
    row = data.user_ids.index(pa.scalar(wanted, data.user_ids.type)).as_py()
    if row < 0:
        examples = ", ".join(str(known) for known in data.user_ids[:3].to_pylist())
        raise InputError(f"user {user!r} is not in {data.name}; its users are {examples} ...")
    ids: list[Any] = data.items.ids.take(pa.array(data.sequences[row])).to_pylist()
    return ids


def _typed(words: tuple[str, ...], kind: pa.DataType, role: str) -> list[Any]:
    """The typed ids, converted to the type `kind`; InputError if that fails."""
    ids: list[Any] = []
    for word in words:
        try:
            ids.append(pa.scalar(word).cast(kind).as_py())
        except pa.ArrowInvalid:
            raise InputError(f"{role} has {word!r} where ids of type {kind} were expected") from None
    return ids
