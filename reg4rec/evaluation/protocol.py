"""Evaluation of rankers on the held-back interactions of a dataset, under a named protocol."""

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
    """A ranker that can say more about each user than the ranking; the means are in the report's `extra`."""

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: Int32
    ) -> tuple[Int32, dict[str, npt.NDArray[np.float64]]]:
        """What `rank` gives and named values (B,), NaN where a user has none; targets only describe, never rank."""
        ...


@distributed.losses_named()
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
    """Recall, NDCG and MRR of rankers at the cut-offs `ks`, with standard errors over the users, all items ranked.

    The dataset's split names the targets, with leave-one-out the last item of each user (in validation the last but
    one); a history is all that the user did before. `standard`: seen items stay, cold targets count. `filtered`: seen
    items are removed and cold targets are dropped. Cold means absent from every training part, whatever a ranker was
    trained on, so that all rows of a report rest on the same targets. `max_users` evaluates a random sample of the
    targets drawn with `seed`; `heaviest` takes only targets of the heaviest kind of event that occurs. `lists` measures
    all of what the lists are like (`ListMeasures`), else their coverage and overlap. Where times tie, targets at the
    time of the interaction before them and later ones are measured apart too (`groups`), and so is each kind of event.

    Memory is bounded by `batch_size`. The processes of a group share the targets, and each gets the report of all of
    them; `seconds` are the slowest one's. Raises InputError when no target is left.
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
    """InputError where `evaluate` would have no target left."""
    _asked(dataset, split, protocol)


def _asked(
    dataset: Dataset, split: SplitName, protocol: str
) -> tuple[Cases, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """All targets of a split, which of them are cold, and the rows of those that the protocol keeps, one or more."""
    every = dataset.cases(split)
    cold_B = ~np.isin(every.targets_B, dataset.part("train").items)
    kept = np.flatnonzero(~cold_B) if protocol == "filtered" else np.arange(len(every))
    if len(kept):
        return every, cold_B, kept
    raise InputError(
        f"no user of {dataset.name} has a {split} target under the {protocol} protocol: "
        + (
            "their targets are items that training lacks; choose the standard protocol, or bring more data"
            if len(every)
            else "leave-one-out needs users with three or more interactions, a split by time users on both sides "
            "of its moments; prepare the data with another split, or bring more"
        )
    )


def _groups(dataset: Dataset, split: SplitName, kept: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which of the kept targets are at the time of the interaction before them, later, or of a kind; some, not all."""
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
    # where there are fewer targets than processes, each process has all of them
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
            raise ValueError(f"{ranker.name} ranked {ranked_BN.shape} where {(len(batch), width)} was asked for")
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
    """The ranks of all targets, of which each process has its `distributed.share`."""
    padded = np.zeros(-(-count // distributed.world()), dtype=np.int64)
    padded[: len(own)] = own
    every = torch.stack(distributed.gather(torch.from_numpy(padded)), 1)
    return every.flatten()[:count].numpy()


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


def _count_repeated(cases: Cases) -> int:
    """Targets that are in their own history: out of reach when seen items are removed."""
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
