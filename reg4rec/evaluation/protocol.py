"""Evaluation of rankers on the held-back interactions of a dataset, under a named protocol."""

import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from reg4rec import distributed
from reg4rec.data import Dataset, ItemCatalog, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation.metrics import hit_ranks, ndcg_at, recall_at
from reg4rec.evaluation.report import Report, ReportRow
from reg4rec.progress import counted
from reg4rec.settings import check_seed

__all__ = ["DetailedRanker", "Ranker", "RecordedRanks", "evaluate"]

Int32 = npt.NDArray[np.int32]
ProtocolName = Literal["standard", "filtered"]
HISTORY_PART: dict[str, Literal["train", "train+validation"]] = {"validation": "train", "test": "train+validation"}


@runtime_checkable
class Ranker(Protocol):
    """Anything that ranks items for histories; `trained_on` names the part of the data it was fitted on."""

    @property
    def name(self) -> str: ...

    @property
    def trained_on(self) -> str: ...

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """(B, k) item rows, best first, -1 where there are no more; `filter_seen` leaves out items of the history."""
        ...


@runtime_checkable
class DetailedRanker(Ranker, Protocol):
    """A ranker that can say more about each user than the ranking; the means stand in the report's `extra`."""

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: Int32
    ) -> tuple[Int32, dict[str, npt.NDArray[np.float64]]]:
        """What `rank` gives and named values (B,), NaN where a user has none; targets only describe, never rank."""
        ...


class RecordedRanks:
    """A ranker as `evaluate` takes it, which keeps the ranks of the targets that this process evaluated.

    A report has their means alone.
    """

    def __init__(self, ranker: DetailedRanker):
        self.ranker, self.name, self.trained_on = ranker, ranker.name, ranker.trained_on
        self.items, self._ranks = getattr(ranker, "items", None), list[npt.NDArray[np.int64]]()

    @property
    def ranks_B(self) -> npt.NDArray[np.int64]:  # noqa: N802
        """0-based, the largest cut-off where a target was not found."""
        return np.concatenate(self._ranks)

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        return self.ranker.rank(histories, k, filter_seen)

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: Int32
    ) -> tuple[Int32, dict[str, npt.NDArray[np.float64]]]:
        ranked_BN, details = self.ranker.rank_with_details(histories, k, filter_seen, targets)
        self._ranks.append(hit_ranks(ranked_BN, targets))
        return ranked_BN, details


@distributed.losses_named()
def evaluate(
    rankers: Ranker | Sequence[Ranker],
    dataset: Dataset,
    split: Literal["validation", "test"] = "test",
    protocol: ProtocolName = "standard",
    ks: Sequence[int] = (5, 10, 20, 50),
    max_users: int | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> Report:
    """Recall and NDCG of rankers at the cut-offs `ks`, all items ranked.

    The dataset's split names the target of each user, with leave-one-out the last item (in validation the last but
    one); the history is all that the split allows before it. `standard`: seen items stay, cold targets count.
    `filtered`: seen items are removed and users with a cold target are dropped. Cold means absent from every training
    part, whatever a ranker was trained on, so that all rows of a report rest on the same users. `max_users` evaluates
    a random sample drawn with `seed`. Memory is bounded by `batch_size`. The processes of a group share the users, and
    each gets the report of all of them; `seconds` are the slowest one's. Raises InputError when no user is left.
    """
    chosen = [rankers] if isinstance(rankers, Ranker) else list(rankers)
    _check(chosen, protocol, ks, max_users, batch_size)
    check_seed(seed)
    _check_catalogs(chosen, dataset)
    filtered = protocol == "filtered"
    users, targets = dataset.targets(split)
    cold = ~np.isin(targets, dataset.part("train").items)
    kept = np.flatnonzero(~cold) if filtered else np.arange(len(users))
    if max_users is not None and max_users < len(kept):
        kept = np.sort(np.random.default_rng(seed).choice(kept, max_users, replace=False))
    if not len(kept):
        raise InputError(
            f"no user of {dataset.name} has a {split} target under the {protocol} protocol: "
            + (
                "their targets are items that training lacks; choose the standard protocol, or bring more data"
                if len(users)
                else "leave-one-out needs users with three or more interactions, a split by time users on both sides "
                "of its moments; prepare the data with another split, or bring more"
            )
        )
    histories = dataset.part(HISTORY_PART[split]).take(users[kept])
    rows = [_evaluate_one(ranker, histories, targets[kept], ks, filtered, batch_size) for ranker in chosen]
    card: dict[str, Any] = {
        "dataset": dataset.name,
        "fingerprint": dataset.card.get("fingerprint"),
        "split": split,
        "held_back": dataset.split.to_json(),
        "protocol": protocol,
        "users": len(kept),
        "users_with_target": len(users),
        "users_without_target": dataset.num_users - len(users),
        "items": dataset.num_items,
        "cold_targets": int(cold.sum()) if filtered else int(cold[kept].sum()),
        "cold_targets_dropped": filtered,
        "filter_seen": filtered,
        "repeated_targets": _count_repeated(histories, targets[kept]),
        "trained_on": [{"name": ranker.name, "trained_on": ranker.trained_on} for ranker in chosen],
        "retrievers": {ranker.name: ranker.retriever for ranker in chosen if hasattr(ranker, "retriever")},
        "history": "all items before the cut; each method may use fewer",
        "history_length": _spread(histories.lengths),
        "ties": "as each method ranks; -1 never hits",
        "sample": {"max_users": max_users, "seed": seed},
        "ks": list(ks),
    }
    return Report(rows, card)


def _evaluate_one(
    ranker: Ranker, histories: Sequences, targets: Int32, ks: Sequence[int], filter_seen: bool, batch_size: int
) -> ReportRow:
    # where there are fewer users than processes, each process has all of them
    users = np.arange(len(histories))[distributed.share() if len(histories) >= distributed.world() else slice(None)]
    sums = {f"{metric}@{k}": 0.0 for k in ks for metric in ("recall", "ndcg")}
    seconds, width = 0.0, max(ks)
    details: dict[str, list[npt.NDArray[np.float64]]] = {}
    batches = [users[start : start + batch_size] for start in range(0, len(users), batch_size)]
    for batch in counted(batches, f"ranking by {ranker.name}"):
        part = histories.take(batch)
        began = time.perf_counter()
        if isinstance(ranker, DetailedRanker):
            ranked_BN, values = ranker.rank_with_details(part, width, filter_seen, targets[batch])
            for name, value_B in values.items():
                details.setdefault(name, []).append(value_B)
        else:
            ranked_BN = np.asarray(ranker.rank(part, width, filter_seen))
        seconds += time.perf_counter() - began
        if ranked_BN.shape != (len(batch), width):
            raise ValueError(f"{ranker.name} ranked {ranked_BN.shape} where {(len(batch), width)} was asked for")
        for k in ks:
            sums[f"recall@{k}"] += float(recall_at(ranked_BN, targets[batch], k).sum())
            sums[f"ndcg@{k}"] += float(ndcg_at(ranked_BN, targets[batch], k).sum())
    sums = distributed.summed({**sums, "users": len(users)})
    num_users = sums.pop("users")
    metrics = {name: total / num_users for name, total in sums.items()}
    seconds = max(float(of_one) for of_one in distributed.gather(torch.tensor(seconds)))
    extra = {name: _mean_of_known(np.concatenate(parts)) for name, parts in details.items()}
    return ReportRow(ranker.name, ranker.trained_on, metrics, seconds, len(histories) / max(seconds, 1e-9), extra)


def _check(rankers: Sequence[Ranker], protocol: str, ks: Sequence[int], max_users: int | None, batch_size: int) -> None:
    if not rankers:
        raise InputError("no ranker was given; there is nothing to evaluate")
    if protocol not in get_args(ProtocolName):
        raise InputError(f"there is no protocol {protocol!r}; the protocols are {list(get_args(ProtocolName))}")
    if not ks or min(ks) < 1:
        raise InputError(f"ks are {list(ks)}; they must be one or more whole numbers from 1 up")
    for name, count in (("batch_size", batch_size), ("max_users", max_users)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be 1 or more")


def _check_catalogs(rankers: Sequence[Ranker], dataset: Dataset) -> None:
    """Rankers answer by item rows, so one that carries a catalog must carry this dataset's."""
    for ranker in rankers:
        items = getattr(ranker, "items", None)
        if isinstance(items, ItemCatalog) and not items.ids.equals(dataset.items.ids):
            raise InputError(
                f"{ranker.name} was made for {len(items)} items that are not the {dataset.num_items} items of "
                f"{dataset.name}; evaluate it on the dataset that it was trained on"
            )


def _count_repeated(histories: Sequences, targets: Int32) -> int:
    """Users whose target is in their own history: out of reach when seen items are removed."""
    owners = histories.owners()
    return len(np.unique(owners[histories.items == targets[owners]]))


def _mean_of_known(values_B: npt.NDArray[np.float64]) -> float | None:
    known = values_B[~np.isnan(values_B)]
    sums = distributed.summed({"values": float(known.sum()), "users": len(known)})
    return sums["values"] / sums["users"] if sums["users"] else None


def _spread(lengths: npt.NDArray[np.int64]) -> dict[str, float]:
    return {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 2), "max": int(lengths.max())}
