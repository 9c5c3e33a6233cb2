"""A trained model with its tokens and its catalog: histories in, items out."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.data import ItemCatalog, Sequences
from reg4rec.data.fingerprint import fingerprint
from reg4rec.errors import InputError
from reg4rec.infer.checks import check_fit, chosen_dtype
from reg4rec.infer.engine import SearchEngine
from reg4rec.infer.graphs import Batch
from reg4rec.infer.histories import allowed_rows, find_items, padded, read_histories
from reg4rec.infer.ranking import bucket_ranks, rank_items
from reg4rec.infer.search import Living, SearchConfig
from reg4rec.infer.similar import nearest_items
from reg4rec.infer.table import Results, results_table, similar_table
from reg4rec.model import Memory, Reg4RecModel
from reg4rec.run import choose_device
from reg4rec.settings import override
from reg4rec.storage import atomic_folder, new_header, read_header, read_tensors, write_json, write_tensors
from reg4rec.tokenizer import Tokenizer

if TYPE_CHECKING:
    import polars as pl

__all__ = ["DType", "Recommender"]

FORMAT, VERSION = "reg4rec-recommender", 3
INDEX = "index.safetensors"

TrainedOn = Literal["train", "train+validation"]
DType = Literal["auto", "float32", "bfloat16"]


class Recommender:
    """Recommends items of a catalog by decoding reasoning paths over their tokens.

    `search` are fields of `SearchConfig`, `prune_threshold=0.06` for example. `device` "auto" takes a GPU where there
    is one; `dtype` "auto" computes in bfloat16 there and in float32 on the CPU. `popularity_I` (interactions of each
    item in training) orders items that share all tokens; `index` is that of the items that may be recommended, all of
    them by default. Raises InputError where model, tokens and items do not fit.
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
        index: ops.TokenIndex | None = None,
        **search: Any,
    ):
        check_fit(model, tokenizer, items)
        self.device = choose_device(device)
        self.dtype = chosen_dtype(dtype, self.device)
        self.model = model.to(self.device).eval()
        self.tokenizer, self.items = tokenizer, items
        self.config = override(SearchConfig(), search)
        self.trained_on: TrainedOn = trained_on
        self.codes_IM = tokenizer.codes_IM.long().to(self.device)
        popularity = np.zeros(len(items)) if popularity_I is None else np.asarray(popularity_I)
        if popularity.shape != (len(items),):
            raise InputError(f"popularity_I has shape {popularity.shape} where ({len(items)},) was expected")
        self.popularity_I = torch.as_tensor(popularity, dtype=torch.int64, device=self.device)
        self.cosine_I = tokenizer.path_cosines().to(self.device)
        self.rank_I = bucket_ranks(self.cosine_I, self.popularity_I)
        self.index = index or ops.TokenIndex.build(self.codes_IM, model.config.codebook_size)
        self.removed_I = ~self.index.listed_items()
        self._engine = SearchEngine(self.model, self.codes_IM, self.index, self.dtype)

    @property
    def engine(self) -> SearchEngine:
        """What encodes and searches with the present model and items; a new one, without graphs, after they changed."""
        if not self._engine.serves(self.model, self.codes_IM, self.index, self.dtype):
            self._engine = SearchEngine(self.model, self.codes_IM, self.index, self.dtype)
        return self._engine

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        filter_seen: bool = True,
        exclude: Iterable[Any] | None = None,
        candidates: Iterable[Any] | None = None,
        return_paths: bool = True,
    ) -> "pl.DataFrame":
        """The best `k` items of every user: user_id, rank (from 1), item_id, score, path, source.

        histories: see `read_histories`; a user without history gets what suits an unknown user. Items of the history
        (with `filter_seen`), in `exclude`, or not in `candidates` (item ids) are never returned; a user gets fewer
        than `k` items only where fewer are allowed. `path`, left out without `return_paths`, holds a struct (token,
        category, confidence) for each step (see `results_arrow`); `score` falls within one `source`, among
        `relaxed` ones within those that share as many tokens (see `reg4rec.infer.ranking`).
        """
        users, sequences = read_histories(histories, self.items)
        found = self.search(sequences, k, filter_seen, allowed_rows(self.items, exclude, candidates))
        return results_table(users, self.items, found, return_paths)

    def similar_items(self, item_ids: Iterable[Any], k: int = 10) -> "pl.DataFrame":
        """The `k` items nearest to each given one: item_id, rank (from 1), similar_item_id, score.

        The score is the cosine of the item vectors from which the tokens were made; ties go to the lowest row, an item
        is not similar to itself. InputError for ids that the catalog lacks.
        """
        wanted = list(item_ids)
        rows = find_items(wanted, self.items, "item_ids")
        score_BN, row_BN = nearest_items(
            torch.from_numpy(self.tokenizer.views.vectors_IV), rows, k, self.removed_I.cpu()
        )
        return similar_table(wanted, self.items.ids, row_BN, score_BN)

    def add_items(self, table: Any, vectors: Mapping[str, npt.ArrayLike] | None = None) -> None:
        """Take items into the catalog: a polars or Arrow table with `item_id` and the text columns of the tokenizer.

        New items have the tokens that the tokenizer gives them and, in models that score items, the residual to expect
        of them (`ItemViews.expected`); `vectors` holds their rows of each matrix view. An item that was removed comes
        back as it was. InputError names an id that is there already.
        """
        other = ItemCatalog.from_table(table.to_arrow() if hasattr(table, "to_arrow") else table)
        rows = self.items.rows(other.ids)
        there = np.flatnonzero((rows >= 0) & ~self.removed_I.cpu().numpy()[rows])
        if len(there):
            raise InputError(f"item_id {other.ids[int(there[0])].as_py()!r} is in the catalog already; remove it first")
        if (new := rows < 0).any():
            own_vectors = {name: np.asarray(matrix)[new] for name, matrix in (vectors or {}).items()}
            self._grow(ItemCatalog(other.table.filter(pa.array(new)), self.items.category_level), own_vectors)
            rows[new] = np.arange(len(self.items) - new.sum(), len(self.items))
        row_T = torch.from_numpy(rows).long().to(self.device)
        self.removed_I = self.removed_I.index_fill(0, row_T, False)
        self.index = self.index.with_items(self.codes_IM, row_T)

    def remove_items(self, item_ids: Iterable[Any]) -> None:
        """Never recommend these items again; histories may still hold them. InputError names ids that are not there."""
        rows = np.unique(find_items(item_ids, self.items, "item_ids"))
        gone = rows[self.removed_I.cpu().numpy()[rows]]
        if len(gone):
            raise InputError(f"item_id {self.items.ids[int(gone[0])].as_py()!r} was removed before")
        row_T = torch.from_numpy(rows).long().to(self.device)
        self.removed_I = self.removed_I.index_fill(0, row_T, True)
        self.index = self.index.without_items(row_T)

    def _grow(self, new: ItemCatalog, vectors: Mapping[str, npt.ArrayLike]) -> None:
        """Give the items of `new` the rows after the last one; what other recommenders share stays as it is."""
        items, tokenizer, model = self.items.extended(new), self.tokenizer.extended(new.table, vectors), self.model
        first, more = len(self.items), (0, len(new))
        if model.scores_items:
            residual_ID = model.residual_ID.detach().cpu().numpy()
            expected_TD = tokenizer.views.expected(tokenizer.views.vectors_IV[first:], residual_ID)
            model = model.extended(torch.from_numpy(expected_TD))
        self.items, self.tokenizer, self.model = items, tokenizer, model
        self.codes_IM = tokenizer.codes_IM.long().to(self.device)
        self.popularity_I = torch.nn.functional.pad(self.popularity_I, more)
        self.removed_I = torch.nn.functional.pad(self.removed_I, more)
        self.cosine_I = torch.cat([self.cosine_I, tokenizer.path_cosines(first).to(self.device)])
        self.rank_I = bucket_ranks(self.cosine_I, self.popularity_I)

    def search(
        self,
        histories: Sequences,
        k: int,
        filter_seen: bool,
        allowed: npt.NDArray[np.int32] | None = None,
        trace: list[Living] | None = None,
    ) -> Iterator[Results]:
        """Results of one batch of users after the other, for histories of item rows; `allowed` None allows all.

        `trace` receives what lives after each step of each batch (see `reg4rec.infer.search`).
        """
        config = self._config_for(k)
        allowed_I, engine = ~self.removed_I, self.engine
        if allowed is not None:
            rows = torch.from_numpy(allowed).long().to(self.device)
            rows = rows[allowed_I[rows]]
            allowed_I = torch.zeros_like(allowed_I).index_fill_(0, rows, True)
            index = ops.TokenIndex.build(self.codes_IM, self.model.config.codebook_size, rows)
            engine = SearchEngine(self.model, self.codes_IM, index, self.dtype, passing=True)
        for batch in histories.batches(engine.users_at_once(config)):
            yield self._search_batch(batch, k, filter_seen, config, engine, allowed_I, trace)

    def users_at_once(self, k: int) -> int:
        """How many users are searched together for `k` items each."""
        return self.engine.users_at_once(self._config_for(k))

    def fingerprint(self) -> str:
        """The sha256 of all that decides what is recommended: weights, tokens, items and the search."""
        arrays = {name: weight.cpu().numpy() for name, weight in self.model.state_dict().items()}
        arrays |= {"codes": self.codes_IM.cpu().numpy(), "rank": self.rank_I.cpu().numpy()}
        arrays["removed"] = self.removed_I.cpu().numpy()
        columns = {name: self.items.table[name] for name in ("item_id", "categories")}
        settings = {"search": asdict(self.config), "model": asdict(self.model.config)}
        return fingerprint(columns, arrays, {**settings, "category_level": self.items.category_level})

    def rank(self, histories: Sequences, k: int, filter_seen: bool) -> npt.NDArray[np.int32]:
        """(B, k) item rows, best first, -1 where there are no more: what `reg4rec.evaluate` calls."""
        rows = [r.ranking.items_BN.cpu().numpy() for r in self.search(histories, k, filter_seen)]
        return np.concatenate(rows).astype(np.int32) if rows else np.empty((0, k), dtype=np.int32)

    def rank_with_details(
        self, histories: Sequences, k: int, filter_seen: bool, targets: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], dict[str, npt.NDArray[np.float64]]]:
        """`rank`, and for each user how the search went.

        category_accuracy: whether the best path's last known category is the target's (NaN without one).
        paths_pruned, fallbacks: what CORP did. from_paths: share of the items that exact paths gave.
        path_recall: whether some path leads to the target, be it among the k items or not.
        """
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
        """The same recommender (weights shared) with other fields of `SearchConfig`; its `config` is the search's."""
        other = copy.copy(self)
        other.config = override(self.config, changes)
        return other

    def with_model(self, model: Reg4RecModel) -> "Recommender":
        """The same recommender with another model of the same tokens and items, on its device; `model` is shared."""
        check_fit(model, self.tokenizer, self.items)
        other = copy.copy(self)
        other.model = model.to(self.device).eval()
        return other

    def _config_for(self, k: int) -> SearchConfig:
        if k < 1:
            raise InputError(f"k is the number of items to recommend, from 1 up, found {k}")
        # the last step merges paths that complete the same set: k beams would fill fewer than k places
        most = min(k, len(self.items))
        return replace(self.config, num_beams=max(self.config.num_beams, most + most // 2))

    def remember(self, histories: Sequences) -> Memory:
        """Histories of item rows, cut to the newest that the model reads and encoded."""
        return self.engine.remember(self._batch_of(histories, None))

    def _batch_of(self, histories: Sequences, exclude_BX: Tensor | None) -> Batch:
        newest = histories.last(self.model.config.max_history)
        return Batch(padded(newest, 0), torch.from_numpy(newest.lengths), exclude_BX)

    def _search_batch(
        self,
        batch: Sequences,
        k: int,
        filter_seen: bool,
        config: SearchConfig,
        engine: SearchEngine,
        allowed_I: Tensor,
        trace: list[Living] | None,
    ) -> Results:
        history_BX = padded(batch, -1).to(self.device)
        exclude_BX = history_BX if filter_seen else None
        with torch.inference_mode():
            state_BD, paths = engine.run(self._batch_of(batch, exclude_BX), config, trace)
            scoring = self.item_scoring(state_BD, history_BX) if self.model.scores_items else None
            ranking = rank_items(paths, engine.index, self.rank_I, k, exclude_BX, allowed_I, scoring)
            return Results(ranking, paths)

    def item_scoring(self, state_BD: Tensor, history_BX: Tensor) -> ops.ItemScoring:
        """What orders the items of the paths of users of these states and histories."""
        # half precision would make ties of what the final order must tell apart
        with torch.autocast(self.device.type, enabled=False):
            state_BD = state_BD.to(self.model.begin.dtype)
            logits_BMK = self.model.token_logits(state_BD)
        return ops.ItemScoring(logits_BMK, state_BD, self.model.residual_ID, history_BX, self.model.repeat_bias)

    def item_scores(self, state_BD: Tensor, history_BX: Tensor, user_T: Tensor, item_T: Tensor) -> Tensor:
        """Scores (T,) of items for users (places in the batch) as by `item_scoring`, with a gradient."""
        with torch.autocast(self.device.type, enabled=False):
            score_T = self.model.score_items(state_BD.to(self.model.begin.dtype), user_T, self.codes_IM[item_T], item_T)
        return score_T + self.model.repeat_bias * self.index.is_excluded(user_T, item_T, history_BX)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the whole recommender, replacing what was there."""
        with atomic_folder(folder, "recommender.json", ["*.safetensors"]) as fresh:
            header = new_header(FORMAT, VERSION, trained_on=self.trained_on)
            write_json(
                fresh / "recommender.json",
                {**header, "search": asdict(self.config), "category_level": self.items.category_level},
            )
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh / "tokenizer")
            self.items.save(fresh / "items.parquet")
            removed_X = self.removed_I.nonzero().squeeze(1)
            write_tensors(fresh / "items.safetensors", {"popularity": self.popularity_I, "removed": removed_X})
            if self.index.lists_pairs:  # a smaller one is built sooner than read
                write_tensors(fresh / INDEX, self.index.stored())

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto", dtype: DType = "auto") -> "Recommender":
        """The recommender saved in a folder; InputError where files are missing, damaged or do not fit together."""
        folder = Path(folder)
        header = read_header(folder / "recommender.json", FORMAT, VERSION)
        try:
            config = SearchConfig.from_json(header["search"])
            level, trained_on = header["category_level"], header["trained_on"]
            stored = read_tensors(folder / "items.safetensors")
            popularity_I, removed_X = stored["popularity"], stored["removed"]
            if trained_on not in get_args(TrainedOn) or type(level) is not int or popularity_I.dtype != torch.int64:
                raise TypeError(f"trained_on {trained_on!r}, category_level {level!r}, popularity {popularity_I.dtype}")
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} does not hold a whole recommender: {error}") from None
        tokenizer = Tokenizer.from_pretrained(folder / "tokenizer")
        num_items = min(len(popularity_I), tokenizer.num_items)
        if removed_X.dtype != torch.int64 or not bool(((removed_X >= 0) & (removed_X < num_items)).all()):
            raise InputError(f"{folder / 'items.safetensors'} names removed items that there are none of")
        return cls(
            Reg4RecModel.from_pretrained(folder),
            tokenizer,
            ItemCatalog.load(folder / "items.parquet", level),
            popularity_I.numpy(),
            trained_on=trained_on,
            device=device,
            dtype=dtype,
            index=_index_of(folder, tokenizer, removed_X, choose_device(device)),
            **asdict(config),
        )


def _index_of(folder: Path, tokenizer: Tokenizer, removed_X: Tensor, device: torch.device) -> ops.TokenIndex:
    """The index of the items that are not removed; a stored one is mapped into memory, not read."""
    codes_IM, codebook_size = tokenizer.codes_IM, tokenizer.config.codebook_size
    stays_I = torch.ones(len(codes_IM), dtype=torch.bool).index_fill_(0, removed_X, False)
    if not (folder / INDEX).exists():
        return ops.TokenIndex.build(codes_IM.to(device), codebook_size, stays_I.nonzero().squeeze(1).to(device))
    try:
        index = ops.TokenIndex.restored(read_tensors(folder / INDEX), codes_IM, codebook_size, int(stays_I.sum()))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{folder / INDEX} is not the index of these items ({error}); save the recommender again"
        ) from None
    return ops.TokenIndex(*(tensor.to(device) for tensor in index))
