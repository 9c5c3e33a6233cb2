"""Encoder and search of a batch as one CUDA graph: captured once for each bucket of shapes, then replayed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from reg4rec.model import Batch
from reg4rec.search.beam import Paths
from reg4rec.search.config import SearchConfig

__all__ = ["Found", "SearchGraphs", "bucketed"]

HISTORY_SIZES = 4
"""Number of history lengths that have their own graphs."""
MOST_GRAPHS = 128
"""Most graphs in memory; beyond it the least recently used one is dropped. A search config has about 60 buckets."""

_ONE = threading.Lock()
"""Held during capture and replay: a process captures one graph at a time, and the next replay overwrites a result."""


class Found(NamedTuple):
    """Result of a search: the encoder's state after each history (see `Memory`), and the paths."""

    state_BD: Tensor
    paths: Paths

    def first(self, num_users: int) -> "Found":
        """A copy of the results of the first users."""
        return Found(self.state_BD[:num_users].clone(), Paths(*(x[:num_users].clone() for x in self.paths)))


Decode = Callable[[Batch], Found]


def bucketed(batch: Batch, most_users: int, max_history: int) -> Batch:
    """The batch, padded to its bucket's shape: added users have no history, added slots are hidden or exclude nothing.

    The number of users is rounded up to a power of two, at most `most_users`. History slots are rounded up to quarters
    of `max_history`. Excluded items get as many slots, or if that is too few, `max_history` times a power of four: a
    request excludes its history, so few other pairs of widths occur.
    """
    num_users = len(batch.item_BL)
    more_users = max(num_users, min(most_users, 1 << (num_users - 1).bit_length())) - num_users
    quarter = -(-max_history // HISTORY_SIZES)
    num_slots = min(max_history, quarter * max(1, -(-batch.item_BL.shape[1] // quarter)))

    def filled(x_BT: Tensor, slots: int, fill: int) -> Tensor:
        return pad(x_BT, (0, slots - x_BT.shape[1], 0, more_users), value=fill)

    exclude_BX = batch.exclude_BX
    if exclude_BX is not None:
        exclude_BX = filled(exclude_BX, _excluded_slots(exclude_BX.shape[1], num_slots, max_history), -1)
    return Batch(filled(batch.item_BL, num_slots, 0), pad(batch.length_B, (0, more_users)), exclude_BX)


def _excluded_slots(needed: int, num_slots: int, max_history: int) -> int:
    if needed <= num_slots:
        return num_slots
    times = max(1, -(-needed // max_history))
    return max_history * 4 ** (((times - 1).bit_length() + 1) // 2)


class SearchGraphs:
    """CUDA graphs of a `decode` function: one for each search config and bucket; the most recently used ones are kept.

    The graphs share one memory pool, in which each overwrites the results of the others, so replays wait for one
    another. A graph holds addresses: tensors that `decode` reads, besides its batch, must not move while graphs live.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.num_captured = 0
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()

    def run(self, decode: Decode, config: SearchConfig, batch: Batch, most_users: int, max_history: int) -> Found:
        """The result of `decode` for the batch. Calls with the same `config` must pass an equivalent `decode`."""
        padded = bucketed(batch, most_users, max_history)
        key = (config, *(None if tensor is None else tensor.shape for tensor in padded))
        with _ONE, torch.cuda.device(self.device):
            if key not in self._graphs:
                self._graphs[key] = _Graph(decode, padded, self.device, self._stream, self._pool)
                self.num_captured += 1
                if len(self._graphs) > MOST_GRAPHS:  # after the capture: a memory pool without graphs is freed
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key)
            self._last.wait()  # until another stream has copied its result, which this replay overwrites
            found = self._graphs[key].replay(padded).first(len(batch.item_BL))
            self._last.record()
            return found

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    @cached_property
    def _last(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()


class _Graph:
    """One captured call, with the buffers that it reads and writes."""

    def __init__(self, decode: Decode, batch: Batch, device: torch.device, stream: torch.cuda.Stream, pool: Any):
        self.batch = batch.mapped(lambda tensor: torch.empty_like(tensor, device=device))
        self._fill(batch)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            decode(self.batch)  # loads kernels and fills caches, which is not allowed during a capture
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may use the GPU during the capture
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.found = decode(self.batch)

    def _fill(self, batch: Batch) -> None:
        for buffer, values in zip(self.batch, batch, strict=True):
            if buffer is not None and values is not None:
                buffer.copy_(values, non_blocking=True)

    def replay(self, batch: Batch) -> Found:
        """The result for a batch; the next replay of any graph of the pool overwrites it."""
        self._fill(batch)
        self.graph.replay()
        return self.found
