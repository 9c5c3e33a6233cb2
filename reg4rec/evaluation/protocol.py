"""Evaluation of rankers on the held-out interactions of a dataset, under a named protocol."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from reg4rec import distributed
from reg4rec.data import Cases, Dataset, ItemCatalog, Sequences
from reg4rec.errors import InputError
from reg4rec.evaluation.lists import ListMeasures, item_vectors
from reg4rec.evaluation.metrics import hit_ranks, rank_metrics
from reg4rec.evaluation.report import Report, ReportRow
from reg4rec.progress import counted
from reg4rec.settings import check_seed
from reg4rec.statistics import error_of_mean

__all__ = ["DetailedRanker", "ProtocolName", "Ranker", "check_targets", "evaluate"]

Int32 = npt.NDArray[np.int32]
ProtocolName = Literal["standard", "filtered"]
SplitName = Literal["validation", "test"]


@runtime_checkable
class Ranker(Protocol):
    """Anything that ranks items for histories; `trained_on` is the part of the data that it was fitted on."""

    @property
    def name(self) -> str: ...

    @property
    def trained_on(self) -> str: ...

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> Int32:
        """Item rows (B, k), best first, padded with -1; `filter_seen` leaves out items of the history."""
        ...


@runtime_checkable
class DetailedRanker(Ranker, Protocol):
    """A ranker that returns more values per user than the ranking; their means are in the report's `extra`."""

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: Int32
    ) -> tuple[Int32, dict[str, npt.NDArray[np.float64]]]:
        """The result of `rank`, and named values (B,), NaN for missing; `targets` must not influence the ranking."""
        ...


@distributed.lost_process_explained()
def evaluate(
    rankers: Ranker | Sequence[Ranker],
    dataset: Dataset,
    split: SplitName = "test",
    protocol: ProtocolName = "standard",
    ks: Sequence[int] = (5, 10, 20, 50),
    max_users: int | None = None,
    seed: int = 0,
    batch_size: int = 512,
    lists: bool = False,
    heaviest: bool = False,
) -> Report:
    """Recall, NDCG and MRR of rankers at the cut-offs `ks`, over all items, with standard errors over users.

    The dataset's split defines the targets: with leave-one-out the last item of each user (validation: the one before
    it). The history is everything before the target. `protocol` "standard" ranks seen items and counts cold targets;
    "filtered" leaves out seen items and drops cold targets. A target is cold if part "train" does not contain it,
    whatever a ranker was trained on, so all rows of a report have the same targets.

    max_users: evaluates a random sample of this number of targets, drawn with `seed`.
    heaviest: only targets of the heaviest kind of event among the targets.
    lists: all `ListMeasures`, not only coverage and overlap.

    `groups` of the report has separate metrics of targets at the same time as the interaction before them and of later
    ones, if times tie, and of each kind of event. Memory is bounded by `batch_size`. The processes of a group share the
    targets, and each gets the full report; `seconds` is the slowest process's. InputError if no target is left.
    """
    chosen = [rankers] if isinstance(rankers, Ranker) else list(rankers)
    _check(chosen, protocol, ks, max_users, batch_size)
    check_seed(seed)
    _check_catalogs(chosen, dataset)
    every, cold_B, kept = _asked(dataset, split, protocol)
    filtered = protocol == "filtered"
    if heaviest and dataset.kinds is not None and len(kept):
        weight_B = np.array(list(dataset.kinds.weights.values()))[dataset.target_kinds(split)][kept]
        kept = kept[weight_B == weight_B.max()]
    if max_users is not None and max_users < len(kept):
        kept = np.sort(np.random.default_rng(seed).choice(kept, max_users, replace=False))
    cases, groups = every.take(kept), _groups(dataset, split, kept)
    vectors_IV = item_vectors(dataset) if lists else None
    rows = [
        _evaluate_one(ranker, cases, groups, ks, filtered, batch_size, ListMeasures(dataset, ks, lists, vectors_IV))
        for ranker in chosen
    ]
    users = len(np.unique(every.users_B))
    card: dict[str, Any] = {
        "dataset": dataset.name,
        "fingerprint": dataset.card.get("fingerprint"),
        "split": split,
        "held_back": dataset.split.to_json(),
        "ties_shuffled_with_seed": dataset.card.get("ties_shuffled_with_seed"),
        "protocol": protocol,
        "users": len(np.unique(cases.users_B)),
        "targets": len(cases),
        "users_with_target": users,
        "users_without_target": dataset.num_users - users,
        "items": dataset.num_items,
        "cold_targets": int(cold_B.sum()) if filtered else int(cold_B[kept].sum()),
        "cold_targets_dropped": filtered,
        "filter_seen": filtered,
        "repeated_targets": sum(_count_repeated(cases.take(rows)) for rows in _batches(len(cases), batch_size)),
        "groups": {name: int(member_B.sum()) for name, member_B in groups.items()},
        "trained_on": [{"name": ranker.name, "trained_on": ranker.trained_on} for ranker in chosen],
        "retrievers": {ranker.name: ranker.retriever for ranker in chosen if hasattr(ranker, "retriever")},
        "history": "all items before the target; each method may use fewer",
        "history_length": _spread(cases.lengths_B),
        "ties": "as each method ranks; -1 never hits",
        "sample": {"max_users": max_users, "seed": seed},
        "ks": list(ks),
    }
    return Report(rows, card)


def check_targets(dataset: Dataset, split: SplitName, protocol: ProtocolName) -> None:
    """InputError if `evaluate` would have no targets."""
    _asked(dataset, split, protocol)


def _asked(
    dataset: Dataset, split: SplitName, protocol: str
) -> tuple[Cases, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """All targets of a split, whether each is cold, and the rows that the protocol keeps; InputError if none."""
    every = dataset.cases(split)
    cold_B = ~np.isin(every.targets_B, dataset.part("train").items)
    kept = np.flatnonzero(~cold_B) if protocol == "filtered" else np.arange(len(every))
    if len(kept):
        return every, cold_B, kept
    raise InputError(
        f"no user of {dataset.name} has a {split} target under the {protocol} protocol: "
        + (
            "all targets are items that are not in the training data; choose the standard protocol, or add data"
            if len(every)
            else "leave-one-out needs users with three or more interactions, a time split users before and after its "
            "cuts; prepare the data with another split, or add data"
        )
    )


def _groups(dataset: Dataset, split: SplitName, kept: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of the kept targets by tied time and by kind of event, without groups of none or all of them."""
    groups: dict[str, npt.NDArray[np.bool_]] = {}
    if (tied_B := dataset.tied_targets(split)) is not None:
        groups |= {"at the time of the item before": tied_B[kept], "later than the item before": ~tied_B[kept]}
    if dataset.kinds is not None and (kind_B := dataset.target_kinds(split)) is not None:
        groups |= {f"of kind {name}": kind_B[kept] == row for row, name in enumerate(dataset.kinds.weights)}
    return {name: member_B for name, member_B in groups.items() if 0 < member_B.sum() < len(kept)}


def _evaluate_one(
    ranker: Ranker,
    cases: Cases,
    groups: Mapping[str, npt.NDArray[np.bool_]],
    ks: Sequence[int],
    filter_seen: bool,
    batch_size: int,
    measures: ListMeasures,
) -> ReportRow:
    # with fewer targets than processes, each process takes all targets
    shared = len(cases) >= distributed.world()
    own = np.arange(len(cases))[distributed.share() if shared else slice(None)]
    seconds, width, ranks = 0.0, max(ks), list[npt.NDArray[np.int64]]()
    details: dict[str, list[npt.NDArray[np.float64]]] = {}
    batches = [own[rows] for rows in _batches(len(own), batch_size)]
    for batch in counted(batches, f"ranking by {ranker.name}"):
        part = cases.take(batch)
        histories = part.histories
        began = time.perf_counter()
        if isinstance(ranker, DetailedRanker):
            ranked_BN, values = ranker.rank_with_details(histories, width, filter_seen, part.targets_B)
            for name, value_B in values.items():
                details.setdefault(name, []).append(value_B)
        else:
            ranked_BN = np.asarray(ranker.rank(histories, width, filter_seen))
        seconds += time.perf_counter() - began
        if ranked_BN.shape != (len(batch), width):
            raise ValueError(f"{ranker.name} returned ranks {ranked_BN.shape} where {(len(batch), width)} was expected")
        ranks.append(hit_ranks(ranked_BN, part.targets_B))
        if shared or distributed.is_first():
            measures.add(ranked_BN)
    rank_B = _of_all(np.concatenate(ranks), len(cases)) if shared else np.concatenate(ranks)
    by_target = rank_metrics(rank_B, ks)
    seconds = max(float(of_one) for of_one in distributed.gather(torch.tensor(seconds)))
    return ReportRow(
        name=ranker.name,
        trained_on=ranker.trained_on,
        metrics={name: float(values_B.mean()) for name, values_B in by_target.items()},
        errors={name: error_of_mean(values_B, cases.users_B) for name, values_B in by_target.items()},
        seconds=seconds,
        users_per_second=len(cases) / max(seconds, 1e-9),
        ranks_B=rank_B,
        users_B=cases.users_B,
        groups={
            group: {name: float(values_B[member_B].mean()) for name, values_B in by_target.items()}
            for group, member_B in groups.items()
        },
        lists=measures.values(),
        extra={name: _mean_of_known(np.concatenate(parts)) for name, parts in details.items()},
    )


def _of_all(own: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The ranks of all targets, gathered from each process's `distributed.share`."""
    padded = np.zeros(-(-count // distributed.world()), dtype=np.int64)
    padded[: len(own)] = own
    every = torch.stack(distributed.gather(torch.from_numpy(padded)), 1)
    return every.flatten()[:count].numpy()


def _check(rankers: Sequence[Ranker], protocol: str, ks: Sequence[int], max_users: int | None, batch_size: int) -> None:
    if not rankers:
        raise InputError("there is no ranker to evaluate; give one or more")
    if protocol not in get_args(ProtocolName):
        raise InputError(f"there is no protocol {protocol!r}; the protocols are {list(get_args(ProtocolName))}")
    if not ks or min(ks) < 1:
        raise InputError(f"ks are {list(ks)}; they must be one or more whole numbers from 1 up")
    for name, count in (("batch_size", batch_size), ("max_users", max_users)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; it must be 1 or more")


def _check_catalogs(rankers: Sequence[Ranker], dataset: Dataset) -> None:
    """InputError for a ranker with another catalog than the dataset's, because rankers return item rows."""
    for ranker in rankers:
        items = getattr(ranker, "items", None)
        if isinstance(items, ItemCatalog) and not items.ids.equals(dataset.items.ids):
            raise InputError(
                f"{ranker.name} was made for {len(items)} items that are not the {dataset.num_items} items of "
                f"{dataset.name}; evaluate it on the dataset that it was trained on"
            )


def _count_repeated(cases: Cases) -> int:
    """The number of targets that are in their own history, which cannot be hit if seen items are left out."""
    histories = cases.histories
    owners = histories.owners()
    return len(np.unique(owners[histories.items == cases.targets_B[owners]]))


def _batches(count: int, size: int) -> list[npt.NDArray[np.int64]]:
    return np.split(np.arange(count), range(size, count, size))


def _mean_of_known(values_B: npt.NDArray[np.float64]) -> float | None:
    known = values_B[~np.isnan(values_B)]
    sums = distributed.summed({"values": float(known.sum()), "users": len(known)})
    return sums["values"] / sums["users"] if sums["users"] else None


def _spread(lengths: npt.NDArray[np.int64]) -> dict[str, float]:
    return {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 2), "max": int(lengths.max())}
