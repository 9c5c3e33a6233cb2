"""The recommender: a trained model with its tokens and its catalog; histories in, items out."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.fingerprint import fingerprint
from reg4rec.data.frames import as_table
from reg4rec.data.hints import new_item_hints
from reg4rec.errors import InputError, warn
from reg4rec.model import Batch, Reg4RecModel, encoded_histories, padded
from reg4rec.page import facts_html
from reg4rec.recommend.checks import check_fit, check_number, chosen_dtype
from reg4rec.recommend.filters import OwnItems, Unknown, find_items, split_filters
from reg4rec.recommend.histories import read_histories
from reg4rec.recommend.items import INDEX, LiveItems
from reg4rec.recommend.similar import nearest_items
from reg4rec.recommend.table import Frame, Results, SearchResults, as_frame, results_arrow, similar_arrow
from reg4rec.run import choose_device
from reg4rec.search.beam import Living
from reg4rec.search.config import SearchConfig
from reg4rec.search.engine import LOGITS_AT_ONCE, SearchEngine, precision
from reg4rec.search.exact import ExactScan, Retriever, chosen_retriever, item_vectors
from reg4rec.search.ranking import Ranking, item_scoring, rank_items
from reg4rec.search.reasons import Reasons, joined, paths_to_items
from reg4rec.settings import override
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors
from reg4rec.tokenizer import Tokenizer
from reg4rec.writing import atomic_folder

__all__ = ["DType", "Recommender"]

FORMAT, VERSION = "reg4rec-recommender", 4
VECTORS = "vectors.safetensors"
SAMPLED = 1000
"""How many stored vectors are compared with vectors computed from the weights."""
SCANNED_AT_ONCE = 1024
"""Number of users for whom all items are scored together."""
MASKS_AT_ONCE = 1 << 24
"""Most mask elements (users times items) at a time for filters by user; packing needs eight bytes for each."""

MEASURED = ("date", "measured", "metrics")
"""The entries of `Recommender.card` that belong to the weights; another model loses them."""

TrainedOn = Literal["train", "train+validation"]
DType = Literal["auto", "float32", "bfloat16"]


class Recommender:
    """Recommends items of a catalog: ranks all items by their own score, or those that reasoning paths find.

    `search` are fields of `SearchConfig`, for example `retriever="paths"`. `device` "auto" takes a GPU if present;
    `dtype` "auto" computes in bfloat16 on a GPU and in float32 on a CPU. `popularity_I` (number of interactions of each
    item in training) orders items that share all tokens. InputError if model, tokens and items do not fit together.

    `live` contains the items, `model` the weights, `config` the settings of the search. A change of the items replaces
    `live` and, in models that score items, `model`. `card` says where it comes from: library version, dataset, and
    what `reg4rec.fit` measured.
    """

    name = "reg4rec"

    def __init__(
        self,
        model: Reg4RecModel,
        tokenizer: Tokenizer,
        items: ItemCatalog,
        popularity_I: npt.ArrayLike | None = None,
        *,
        trained_on: TrainedOn = "train",
        device: str | torch.device = "auto",
        dtype: DType = "auto",
        **search: Any,
    ):
        check_fit(model, tokenizer, items)
        live = LiveItems.of(items, tokenizer, popularity_I, choose_device(device))
        self._begin(model, live, trained_on, dtype, override(SearchConfig(), search))

    def _begin(
        self, model: Reg4RecModel, live: LiveItems, trained_on: TrainedOn, dtype: DType, config: SearchConfig
    ) -> None:
        self.device = live.codes_IM.device
        self.dtype = chosen_dtype(dtype, self.device)
        self.model, self.live, self.config = model.to(self.device).eval(), live, config
        self.trained_on: TrainedOn = trained_on
        self.card: dict[str, Any] = {}
        self._scan: ExactScan | None = None
        self._engine: SearchEngine | None = None
        self._one_off = False
        chosen_retriever(config.retriever, model, len(self.items))  # InputError if the model cannot rank like that

    def __repr__(self) -> str:
        size, tokens = self.model.config, self.tokenizer.config.tokens_per_item
        return (
            f"Recommender({len(self.items):,} items, {tokens} tokens each, width {size.dim}, {size.num_blocks} blocks, "
            f"retriever {self.retriever!r}, {self.device})"
        )

    def _repr_html_(self) -> str:
        return facts_html(repr(self), self.facts)

    @property
    def facts(self) -> dict[str, str]:
        """The card in words: where the recommender comes from and what was measured."""
        facts = {name: value for name, value in self.card.items() if isinstance(value, str)}
        if metrics := self.card.get("metrics"):
            facts["metrics"] = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        return facts

    @property
    def items(self) -> ItemCatalog:
        return self.live.items

    @property
    def tokenizer(self) -> Tokenizer:
        return self.live.tokenizer

    @property
    def codes_IM(self) -> Tensor:  # noqa: N802
        return self.live.codes_IM

    @property
    def index(self) -> ops.TokenIndex:
        """The tokens of the items that may be recommended; built, or its checksum compared, on first use."""
        return self.live.index

    @property
    def engine(self) -> SearchEngine:
        """The engine for the present model and items; a change of either makes a new engine, without CUDA graphs."""
        parts = self.model, self.codes_IM, self.index, self.dtype
        if self._engine is None or not self._engine.is_current(*parts):
            self._engine = SearchEngine(*parts, one_off=self._one_off)
        return self._engine

    @property
    def retriever(self) -> Retriever:
        """How items are found, "exact" or "paths": the setting `retriever`, with "auto" resolved."""
        return chosen_retriever(self.config.retriever, self.model, len(self.items))

    @property
    def scan(self) -> ExactScan:
        """The scan that scores all items with the present model."""
        if self._scan is None or not self._scan.is_current(self.model, self.codes_IM):
            self._scan = ExactScan(self.model, self.codes_IM)
        return self._scan

    def prepare(self) -> None:
        """Build and import everything that the first call would otherwise wait for; `from_pretrained` calls this."""
        _ = self.items.row_of
        if self.retriever == "exact":
            self.rank(Sequences.from_lists([[]]), 1, True)
        else:
            _ = self.engine

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Any = None,
        candidates: Any = None,
        return_paths: bool = False,
        to: Frame = "arrow",
        unknown: Unknown = "ignore",
    ) -> Any:
        """The best `k` items for every user: a table of user_id, rank (from 1), item_id, score, path if asked, source.

        histories: see `read_histories`; a user without a history gets a cold-start list. A user never gets items of the
        history (with `filter_seen`), items in `exclude`, or items outside `candidates`, and gets fewer than `k` items
        only if fewer are allowed. The list for a smaller `k` is the head of the list for a larger one.

        candidates, exclude: item ids for all users, or a mapping from user id to item ids. For the same candidates in
        many calls, `only` is faster. Ids that are not in the catalog are left out, with a warning if none of them is in
        it; with `unknown` "error" they raise an InputError.

        return_paths: adds the column `path`, a list of structs (token, category, confidence), one for each step (see
        `results_arrow`): the item's tokens, most confident first. The path found the item only if `source` is `path`.

        `score` falls within a `source`, and within `relaxed` among items that share equally many tokens (see
        `reg4rec.search.ranking`). to: "arrow" or "polars".
        """
        users, sequences = read_histories(histories, self.items)
        shared, own = split_filters(self.items, users, exclude, candidates, unknown)
        allowing = self if shared is None else self.with_rows(shared, one_off=True)
        found = allowing.results(sequences, k, filter_seen, return_paths, own)
        return as_frame(results_arrow(users, self.items, found, return_paths), to)

    def only(self, item_ids: Iterable[Any], unknown: Unknown = "ignore") -> "Recommender":
        """The same recommender (weights shared) that recommends only these items; its calls need no further filter.

        Histories may contain any item. Ids that are not in the catalog are left out or raise an InputError (see
        `recommend`).
        """
        return self.with_rows(find_items(item_ids, self.items, "item_ids", unknown))

    def similar_items(self, item_ids: Iterable[Any], k: int = 10, to: Frame = "arrow") -> Any:
        """The `k` items nearest to each given item: a table of item_id, rank (from 1), similar_item_id, score.

        The score is the cosine of the item vectors from which the tokens were made; of equal scores the lowest row
        comes first. An item is not its own neighbor. InputError for ids that are not in the catalog.
        """
        wanted = list(item_ids)
        rows = find_items(wanted, self.items, "item_ids")
        score_BN, row_BN = nearest_items(
            torch.from_numpy(self.tokenizer.views.vectors_IV), rows, k, self.live.removed_I.cpu()
        )
        return as_frame(similar_arrow(rows, self.items.ids, row_BN, score_BN), to)

    def add_items(self, table: Any, vectors: Mapping[str, npt.ArrayLike] | None = None) -> int:
        """Add items to the catalog and return how many were added, including removed items that came back.

        table: a pandas or polars DataFrame, an Arrow table, or a dictionary of columns, with `item_id` and the
        tokenizer's text columns; categories are lists, or text such as "Shoes > Trail". Warns of a column that looks
        like categories under another name. vectors: for each matrix view of the tokenizer, a row for each row of
        `table`.

        New items get tokens from the tokenizer and, in models that score items, a predicted residual
        (`ItemViews.expected`). Items that are in the catalog do not change, and removed items come back unchanged, so
        you may pass the whole catalog every time.
        """
        other = ItemCatalog.from_table(table := as_table(table))
        for sentence in new_item_hints(table.column_names, self.items.table.column_names):
            warn(sentence)
        rows = self.items.rows(other.ids)
        new = rows < 0
        coming = new | self.live.removed_I.cpu().numpy()[rows]
        if not coming.any():
            return 0
        if new.any():
            own_vectors = {name: np.asarray(matrix)[new] for name, matrix in (vectors or {}).items()}
            self._grow(ItemCatalog(other.table.filter(pa.array(new)), self.items.category_level), own_vectors)
            rows[new] = np.arange(len(self.items) - new.sum(), len(self.items))
        self.live = self.live.restored(rows[coming])
        return int(coming.sum())

    def remove_items(self, item_ids: Iterable[Any]) -> int:
        """Stop recommending these items and return how many were removed; histories may still contain them.

        Ids that were removed before or are not in the catalog are ignored.
        """
        rows = np.unique(find_items(item_ids, self.items, "item_ids", "ignore"))
        rows = rows[~self.live.removed_I.cpu().numpy()[rows]]
        if len(rows):
            self.live = self.live.without(rows)
        return len(rows)

    def _grow(self, new: ItemCatalog, vectors: Mapping[str, npt.ArrayLike]) -> None:
        """Give the items of `new` the rows after the last one; objects that other recommenders share do not change."""
        first, live, model = len(self.items), self.live.extended(new, vectors), self.model
        if model.scores_items:
            residual_ID = model.residual_ID.detach().cpu().numpy()
            views = live.tokenizer.views
            model = model.extended(torch.from_numpy(views.expected(views.vectors_IV[first:], residual_ID)))
        else:
            model = copy.copy(model)
        model.catalog = live.tokenizer.catalog_fingerprint(live.items)
        if self._scan is not None and self._scan.is_current(self.model, self.codes_IM):
            self._scan = self._scan.extended(model, live.codes_IM)
        self.model, self.live = model, live

    def results(
        self,
        histories: Sequences,
        k: int,
        filter_seen: bool,
        with_paths: bool = False,
        own: OwnItems | None = None,
    ) -> Iterator[Results]:
        """Results of the retriever for histories of item rows, one batch of users after the other.

        A batch has `users_at_once` users, or fewer with filters by user (`own`). Paths are None unless the retriever
        searches them or `with_paths` asks for them.
        """
        check_number(k)
        if own is not None:
            yield from self._own_results(histories, k, filter_seen, own, with_paths)
            return
        if self.retriever == "paths":
            for ranking, paths in self.search(histories, k, filter_seen):
                yield Results(ranking, paths)
            return
        for batch in histories.batches(self.users_at_once()):
            yield self._scan_batch(batch, k, filter_seen, self.live.allowed_words, with_paths)

    def search(
        self, histories: Sequences, k: int, filter_seen: bool, trace: list[Living] | None = None
    ) -> Iterator[SearchResults]:
        """Results of the path search, one batch of users after the other, whatever the setting `retriever`.

        `trace` receives the paths after each step of each batch (see `reg4rec.search.beam`).
        """
        check_number(k)
        engine = self.engine
        for batch in histories.batches(engine.users_at_once(self.config)):
            yield self._search_batch(batch, k, filter_seen, engine, trace)

    @torch.inference_mode()
    def reasons(self, histories: Sequences, items_BN: Tensor) -> Reasons:
        """A path to each given item of every user (items_BN: rows, -1 for none), however the items were found."""
        per_user = items_BN.shape[1] * self.index.counts_MK.numel()
        size = max(1, LOGITS_AT_ONCE // max(1, per_user))
        found = [
            paths_to_items(self.model, encoded_histories(self.model, self.codes_IM, some), self.index, items_bN)
            for some, items_bN in zip([*histories.batches(size)] or [histories], items_BN.split(size), strict=True)
        ]
        return found[0] if len(found) == 1 else joined(found)

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The vectors (I, D) of all items, in the order of `items`; removed items keep theirs.

        An item's score is its product with the user's vector, plus `model.repeat_bias` for items of the history.
        InputError for models that do not score items.
        """
        self.check_scores_items("item_vectors")
        return self.scan.vectors.rows_ID.float().cpu().numpy().copy()

    def user_vectors(self, histories: Any) -> npt.NDArray[np.float32]:
        """The vectors (users, D) of users by their histories (as in `recommend`), for `item_vectors`.

        InputError for models that do not score items.
        """
        self.check_scores_items("user_vectors")
        _, sequences = read_histories(histories, self.items)
        return self.states(sequences)

    def states(self, histories: Sequences) -> npt.NDArray[np.float32]:
        """`user_vectors` for histories of item rows."""
        with precision(self.device, self.dtype, 0):
            parts = [self.scan.states(batch).cpu().numpy() for batch in histories.batches(SCANNED_AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, self.model.config.dim), dtype=np.float32)

    def check_scores_items(self, what: str) -> None:
        """InputError if the model does not score items, which `what` (a name for the message) needs."""
        if not self.model.scores_items:
            raise InputError(f"{what} needs a model that scores items; this one ranks them by paths")

    def users_at_once(self) -> int:
        """The largest number of users that are ranked together."""
        return SCANNED_AT_ONCE if self.retriever == "exact" else self.engine.users_at_once(self.config)

    def fingerprint(self) -> str:
        """The sha256 of everything that recommendations depend on: weights, tokens, items and search settings."""
        arrays = {name: weight.cpu().numpy() for name, weight in self.model.state_dict().items()}
        arrays |= {"codes": self.codes_IM.cpu().numpy(), "rank": self.live.rank_I.cpu().numpy()}
        arrays["removed"] = self.live.removed_I.cpu().numpy()
        columns = {name: self.items.table[name] for name in ("item_id", "categories")}
        search = {**asdict(self.config), "retriever": self.retriever}
        settings = {"search": search, "model": asdict(self.model.config)}
        return fingerprint(columns, arrays, {**settings, "category_level": self.items.category_level})

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """Item rows (B, k), best first, -1 after the last; `reg4rec.evaluate` calls this."""
        rows = [r.ranking.items_BN.cpu().numpy() for r in self.results(histories, k, filter_seen)]
        return np.concatenate(rows).astype(np.int32) if rows else np.empty((0, k), dtype=np.int32)

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[np.float64]]]:
        """`rank`, and for each user how the search went; nothing of that where no path was searched.

        category_accuracy: whether the best path's last known category is the target's (NaN without one).
        paths_pruned, fallbacks: what CORP did. from_paths: share of the items that exact paths gave.
        path_recall: whether some path leads to the target, be it among the k items or not.
        """
        if self.retriever == "exact":
            return self.rank(histories, k, filter_seen), {}
        results = list(self.search(histories, k, filter_seen))
        tokens_BWM = torch.cat([r.paths.tokens_BWM for r in results])
        alive_BW = torch.cat([r.paths.scores_BW for r in results]) > -torch.inf
        codes_B1M = self.codes_IM[torch.from_numpy(targets).long().to(self.device)][:, None]
        reached_BW = alive_BW & ((tokens_BWM == codes_B1M) | (tokens_BWM < 0)).all(-1)
        steps_BM = torch.cat([r.paths.categories_BWM[:, 0] for r in results]).cpu().numpy()
        last_B = steps_BM[np.arange(len(steps_BM)), np.maximum(0, (steps_BM >= 0).sum(1) - 1)]
        category_B = self.items.categories_I[targets]
        details = {
            "category_accuracy": np.where((category_B < 0) | (last_B < 0), np.nan, last_B == category_B),
            "paths_pruned": torch.cat([r.paths.pruned_B for r in results]).cpu().numpy().astype(float),
            "fallbacks": torch.cat([r.paths.fallbacks_B for r in results]).cpu().numpy().astype(float),
            "path_recall": reached_BW.any(1).double().cpu().numpy(),
            "from_paths": torch.cat([(r.ranking.source_BN == 0).double().mean(1) for r in results]).cpu().numpy(),
        }
        ranked = torch.cat([r.ranking.items_BN for r in results]).cpu().numpy().astype(np.int32)
        return ranked, details

    def with_search(self, **changes: Any) -> "Recommender":
        """The same recommender (weights shared) with other search settings; `changes` are fields of `SearchConfig`."""
        other = self._copy()
        other.config, other.card = override(self.config, changes), dict(self.card)
        chosen_retriever(other.config.retriever, other.model, len(other.items))
        return other

    def with_model(self, model: Reg4RecModel) -> "Recommender":
        """The same recommender with another model for the same tokens and items; moves `model` to this device."""
        check_fit(model, self.tokenizer, self.items)
        other = copy.copy(self)
        other.model = model.to(self.device).eval()
        other.card = {name: value for name, value in self.card.items() if name not in MEASURED}
        return other

    def _copy(self) -> "Recommender":
        """A copy that shares the item vectors computed so far."""
        if self.retriever == "exact":
            _ = self.scan
        return copy.copy(self)

    def with_rows(self, rows: npt.NDArray[np.integer[Any]], one_off: bool = False) -> "Recommender":
        """The same recommender for only these items (rows); `one_off`: it serves a single call."""
        other = self._copy()
        other.live = self.live.only(rows)
        other._one_off = self._one_off or one_off
        return other

    def _own_results(
        self, histories: Sequences, k: int, filter_seen: bool, own: OwnItems, with_paths: bool
    ) -> Iterator[Results]:
        """Results for users with their own filters: user by user with paths (each needs an index), else in batches."""
        by_paths = self.retriever == "paths"
        at_once = 1 if by_paths else max(1, min(SCANNED_AT_ONCE, MASKS_AT_ONCE // max(1, len(self.items))))
        for batch, some in zip(histories.batches(at_once), own.batches(at_once), strict=True):
            allowed_BI = some.allowed(len(self.items))
            if by_paths:
                rows = np.flatnonzero(allowed_BI[0].numpy())
                yield from self.with_rows(rows, one_off=True).results(batch, k, filter_seen)
            else:
                words = ops.allowed_words(allowed_BI.to(self.device) & ~self.live.removed_I)
                yield self._scan_batch(batch, k, filter_seen, words, with_paths)

    def _scan_batch(
        self, batch: Sequences, k: int, filter_seen: bool, allowed: Tensor | None, with_paths: bool
    ) -> Results:
        with precision(self.device, self.dtype, 0):
            ranking = self.scan.rank(batch, k, filter_seen, allowed)
        return self._explained(batch, ranking) if with_paths else Results(ranking, None)

    def _explained(self, batch: Sequences, ranking: Ranking) -> Results:
        """The ranking with a path to every item."""
        with precision(self.device, self.dtype, ranking.items_BN.numel()):
            paths, _ = self.reasons(batch, ranking.items_BN)
        place_BN = torch.arange(ranking.items_BN.shape[1], device=self.device).expand_as(ranking.items_BN)
        return Results(ranking._replace(path_BN=place_BN.masked_fill(ranking.items_BN < 0, -1)), paths)

    def _search_batch(
        self,
        batch: Sequences,
        k: int,
        filter_seen: bool,
        engine: SearchEngine,
        trace: list[Living] | None,
    ) -> SearchResults:
        history_BX = padded(batch, -1).to(self.device)
        exclude_BX = history_BX if filter_seen else None
        with torch.inference_mode():
            newest = Batch.of(batch, self.model.config.max_history, exclude_BX)
            state_BD, paths = engine.run(newest, self.config, trace)
            scoring = item_scoring(self.model, state_BD, history_BX) if self.model.scores_items else None
            live = self.live
            ranking = rank_items(paths, engine.index, live.rank_I, k, exclude_BX, ~live.removed_I, scoring)
            return SearchResults(ranking, paths)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the whole recommender into a folder, replacing an earlier one in one step."""
        with atomic_folder(folder, "recommender.json", ["*.safetensors"]) as fresh:
            self.model.save_pretrained(fresh)
            self.live.save(fresh)
            if self.live.are_many and self.model.scores_items:
                write_tensors(fresh / VECTORS, self.scan.vectors.stored())
            header = new_header(FORMAT, VERSION, trained_on=self.trained_on, card=self.card)
            header |= {"search": asdict(self.config), "category_level": self.items.category_level}
            others = [file.name for file in fresh.iterdir() if file.is_file() and file.name != "model.safetensors"]
            write_header(fresh / "recommender.json", header, [*others, "tokenizer/tokenizer.json"])

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str = "auto", dtype: DType = "auto", verify: bool = True
    ) -> "Recommender":
        """The recommender saved in a folder; InputError if files are missing, damaged or do not fit together.

        `verify=False` skips the checksums, which take about a second for each gigabyte.
        """
        folder = Path(folder)
        header = read_header(folder / "recommender.json", FORMAT, VERSION, verify=verify, later=[INDEX])
        try:
            config = SearchConfig.from_json(header["search"])
            level, trained_on = header["category_level"], header["trained_on"]
            if trained_on not in get_args(TrainedOn):
                raise TypeError(f"trained_on in recommender.json is {trained_on!r}")
            card = header.get("card", {})  # older folders have none
            if not isinstance(card, dict):
                raise TypeError(f"card in recommender.json is {card!r}")
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} does not contain a complete recommender: {error}") from None
        live = LiveItems.load(folder, level, choose_device(device), header["files"], verify)
        model = Reg4RecModel.from_pretrained(folder, verify)
        check_fit(model, live.tokenizer, live.items)
        vectors = _stored_vectors(folder, model, live.tokenizer) if VECTORS in header["files"] else None
        recommender = cls.__new__(cls)
        recommender._begin(model, live, trained_on, dtype, config)
        recommender.card = card
        if vectors is not None:
            recommender._scan = ExactScan(recommender.model, live.codes_IM, vectors.to(recommender.device))
        recommender.prepare()
        pa.default_memory_pool().release_unused()  # reading the files took more than stays
        return recommender


def _stored_vectors(folder: Path, model: Reg4RecModel, tokenizer: Tokenizer) -> ops.ItemVectors:
    """The stored item vectors and their 8-bit copy, mapped into memory; InputError if they do not fit the weights."""
    try:
        vectors = ops.ItemVectors.restored(read_tensors(folder / VECTORS))
        some_T = torch.linspace(0, tokenizer.num_items - 1, min(SAMPLED, tokenizer.num_items)).long()
        expected_TD = item_vectors(model, tokenizer.codes_IM.long()[some_T], some_T)
        if vectors.rows_ID.shape != model.residual_ID.shape or not vectors.are(some_T, expected_TD):
            raise ValueError("the vectors were computed from other weights")
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{folder / VECTORS} does not contain the vectors of these items ({error}); save the recommender again"
        ) from None
    return vectors
