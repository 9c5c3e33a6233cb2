"""Encoder and path search over one index: as separate kernel calls, or as one CUDA graph on a GPU."""

import contextlib
import functools
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.model import Batch, Reg4RecModel, encoded
from reg4rec.search.beam import Living, corp, search, step_indexes
from reg4rec.search.config import SearchConfig, SearchOrder
from reg4rec.search.graphs import Found, SearchGraphs

__all__ = ["LOGITS_AT_ONCE", "SearchEngine", "precision"]

LOGITS_AT_ONCE = 1 << 23
"""Most token logits in memory at a time; limits how many users are searched together."""
MANY_PATHS = 512
"""Number of paths in a batch from which a CPU is faster in bfloat16 despite the casts, even if the C++ kernels do not
multiply it (docs/benchmarks.md)."""


@functools.cache
def keep_freed_memory() -> None:
    """Make the C library keep the memory that a batch frees for the next batch.

    Fresh pages would cost up to a sixth of a search. glibc keeps twice the size of the largest block freed so far, for
    blocks up to 32 MiB (`mallopt`, dynamic threshold), so this allocates and frees one such block. Nothing writes to
    it, so it takes no memory.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8, device="cpu")


def precision(device: torch.device, dtype: torch.dtype, num_paths: int) -> contextlib.AbstractContextManager[Any]:
    """The autocast for a batch of `num_paths` paths; none for float32, or for few paths on a CPU without bfloat16."""
    few = device.type == "cpu" and num_paths < MANY_PATHS and ops.uses_cpp() and not ops.cpp_multiplies_bf16()
    if dtype == torch.float32 or few:
        return contextlib.nullcontext()
    # no cache: a CUDA graph must not read tensors that were cast outside of its capture
    return torch.autocast(device.type, dtype, cache_enabled=False)


class SearchEngine:
    """Encodes histories and searches paths with a model, the codes of its items, an index of allowed items and a dtype.

    Batches may be on any device; results are on the device of the codes. `one_off`: the engine serves a single call, so
    that capturing a CUDA graph does not pay.
    """

    def __init__(
        self, model: Reg4RecModel, codes_IM: Tensor, index: ops.TokenIndex, dtype: torch.dtype, one_off: bool = False
    ):
        self.model, self.codes_IM, self.index, self.dtype, self.one_off = model, codes_IM, index, dtype, one_off
        self.device = codes_IM.device
        self.weight_addresses = self._weight_addresses(model)
        self.graphs = SearchGraphs(self.device)
        self._indexes: dict[SearchOrder, list[ops.TokenIndex]] = {}
        self._step_objections: dict[SearchConfig, str | None] = {}
        keep_freed_memory()

    def is_current(self, model: Reg4RecModel, codes_IM: Tensor, index: ops.TokenIndex, dtype: torch.dtype) -> bool:
        """Whether the engine was made of these very objects and its graphs still hold the weights' addresses."""
        same = self.model is model and self.codes_IM is codes_IM and self.index is index and self.dtype == dtype
        return same and self.weight_addresses == self._weight_addresses(model)

    def indexes(self, order: SearchOrder) -> list[ops.TokenIndex]:
        """`step_indexes`, built once."""
        if order not in self._indexes:
            self._indexes[order] = step_indexes(self.index, order)
        return self._indexes[order]

    def users_at_once(self, config: SearchConfig) -> int:
        """The largest number of users in a batch."""
        per_user = (config.num_beams + config.num_spares) * self.index.counts_MK.numel()
        return max(1, LOGITS_AT_ONCE // per_user)

    @torch.inference_mode()
    def run(self, batch: Batch, config: SearchConfig, trace: list[Living] | None = None) -> Found:
        """The result of `plain`, by a CUDA graph unless there is a `graph_objection`."""
        if self.graph_objection(config, trace) is not None:
            return self.plain(batch.to(self.device), config, trace)
        self.indexes(config.order)  # builds them before the capture, which could not
        decode = partial(self.plain, config=config)
        return self.graphs.run(decode, config, batch, self.users_at_once(config), self.model.config.max_history)

    @torch.inference_mode()
    def plain(self, batch: Batch, config: SearchConfig, trace: list[Living] | None = None) -> Found:
        """Encode and search a batch that is on the device; with CUDA kernels nothing waits for the GPU."""
        num_paths = len(batch.item_BL) * (config.num_beams + corp(self.model, config)[1])
        with precision(self.device, self.dtype, num_paths):
            memory = encoded(self.model, self.codes_IM, batch)
            paths = search(self.model, memory, self.indexes(config.order), config, batch.exclude_BX, trace)
            return Found(memory.state_BD, paths)

    def graph_objection(self, config: SearchConfig, trace: list[Living] | None = None) -> str | None:
        """The reason why a search does not run as a CUDA graph; None if it does."""
        forced = ops.forced_backend()
        if trace is not None:
            return "a trace of the search was asked for, and a graph keeps only its result"
        if self.model.training:
            return "the model is in training mode, and a graph would stay in it; call eval()"
        if self.one_off:
            return "its items were chosen for this call, and a graph pays only from the second call on"
        if forced not in (None, "cuda"):
            return f"the backend {forced} was asked for, and a graph holds CUDA kernels"
        if self.device.type != "cuda":
            return f"the recommender is on the {self.device.type}, a CUDA graph needs a GPU"
        if config not in self._step_objections:
            self._step_objections[config] = self._step_objection(config)
        return self._step_objections[config]

    def _step_objection(self, config: SearchConfig) -> str | None:
        """The reason why a step runs on eager PyTorch, which waits for the GPU; None if it runs on CUDA kernels."""
        num_spares = corp(self.model, config)[1]
        shape = (1, config.num_beams + num_spares)
        logits_BPMK = torch.empty(*shape, *self.index.counts_MK.shape, device=self.device)
        scores_BP = torch.empty(shape, device=self.device)
        tokens_BPM = torch.empty(*shape, self.codes_IM.shape[1], dtype=torch.int64, device=self.device)
        choice = ops.which(
            "beam_step", logits_BPMK, scores_BP, tokens_BPM, None, self.index, config.num_beams, num_spares
        )
        return None if choice.backend == "cuda" else f"beam_step runs on {choice.backend}: {choice.reasons['cuda']}"

    def _weight_addresses(self, model: Reg4RecModel) -> list[int]:
        """Addresses of the weights, which a CUDA graph holds; empty on other devices."""
        if self.device.type != "cuda":
            return []
        return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
