"""Data-parallel training: torchrun starts the processes, each takes its share of a batch, means are over all of them.

Without torchrun there is one process and nothing here communicates. In a group every process must call the same stages
with the same arguments; the first process writes the files, which all processes must be able to read.
"""

import atexit
import contextlib
import copy
import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reg4rec.errors import ProcessLostError

__all__ = [
    "Parallel",
    "ParallelKind",
    "average",
    "barrier",
    "clip_grad_norm",
    "decided_by_first",
    "gather",
    "is_first",
    "lost_process_explained",
    "mean",
    "random_states",
    "rank",
    "ratio",
    "seed",
    "set_random_states",
    "sharded_like",
    "share",
    "shared_generator",
    "summed",
    "total",
    "uniform",
    "unsharded",
    "world",
]

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it fails; the end of a process is noticed at once."""

ParallelKind = Literal["ddp", "fsdp"]

_shared_generators: dict[str, torch.Generator] = {}
"""By device type: the generator whose draws all processes of a group share; empty in a single process."""


def world() -> int:
    """The number of processes; the first call joins the group that torchrun describes in the environment."""
    if not dist.is_initialized() and "MASTER_ADDR" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join()
    return dist.get_world_size() if dist.is_initialized() else 1


def _join() -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with lost_process_explained():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    atexit.register(_leave)


def _leave() -> None:
    """End the group's threads before Python exits: a thread that frees a tensor afterwards aborts the process."""
    gc.collect()  # wrapped modules keep the group alive in reference cycles
    dist.destroy_process_group()
    gc.collect()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_first() -> bool:
    """Whether this process writes and prints: the first of a group, or the only one."""
    return rank() == 0


def share() -> slice:
    """The rows of a batch that this process takes: every `world`-th."""
    return slice(rank(), None, world())


@contextlib.contextmanager
def lost_process_explained() -> Iterator[None]:
    """Turn the errors that gloo and NCCL raise when another process is gone into a ProcessLostError with the reason."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        if not lost or isinstance(error, ProcessLostError):
            raise
        where = f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '?')}"
        reason = str(error).partition("\n")[0]
        raise ProcessLostError(
            f"another process of this run is gone or was silent for {TIMEOUT} ({where} found: {reason}); "
            "start the run again, and it resumes from its last checkpoint"
        ) from None


class _Total(torch.autograd.Function):
    """The sum over all processes. Its backward sums too, so gradients come out `world` times too large; DDP and FSDP2
    average over the processes, which cancels that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Total.forward(ctx, grad)


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes; gradients are right once they are averaged over the processes."""
    return x if world() == 1 else _Total.apply(x)


def ratio(part: Tensor, count: Tensor) -> Tensor:
    """The sum of `part` over all processes, divided by the sum of `count` (at least 1)."""
    return total(part) / total(count).clamp(min=1)


def mean(values: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The mean over the values (or rows along `dim`) of all processes, which may have different numbers of them."""
    if world() == 1:
        return values.mean() if dim is None else values.mean(dim)
    part = values.sum() if dim is None else values.sum(dim)
    count = values.numel() / max(1, part.numel())
    return ratio(part, torch.tensor(count, device=values.device))


def summed(values: Mapping[str, float]) -> dict[str, float]:
    """Each named value, summed over the processes in float64."""
    if world() == 1:
        return dict(values)
    return dict(zip(values, total(torch.tensor(list(values.values()), dtype=torch.float64)).tolist(), strict=True))


def average(values: Mapping[str, float]) -> dict[str, float]:
    """Each named value, averaged over the processes in float64."""
    return {name: value / world() for name, value in summed(values).items()}


def gather(x: Tensor) -> list[Tensor]:
    """x of every process, in order of rank; all must have the same shape."""
    if world() == 1:
        return [x]
    every = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(every, x.contiguous())
    return every


def barrier() -> None:
    """Wait for all processes."""
    total(torch.zeros(1))


def decided_by_first(answer: bool) -> bool:
    """The answer of the first process; for decisions by the clock, which would differ between processes."""
    if world() == 1:
        return answer
    said = torch.tensor([float(answer and is_first())])
    return bool(total(said))


def seed(number: int) -> None:
    """Seed torch with `number`; in a group the shared generators get it, and each process's own a different seed."""
    torch.manual_seed(number)
    _shared_generators.clear()
    if world() > 1:
        kinds = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        _shared_generators.update({kind: torch.Generator(kind).manual_seed(number) for kind in kinds})
        torch.manual_seed((number + (rank() + 1) * 0x9E3779B97F4A7C15) % (1 << 63))


def shared_generator(device: torch.device | str) -> torch.Generator | None:
    """The generator for a device whose draws all processes share; None (torch's default) in a single process."""
    return _shared_generators.get(torch.device(device).type)


def uniform(num_rows: int, shape: Iterable[int], device: torch.device) -> Tensor:
    """Uniform numbers for this process's share of `num_rows` rows, the same as a single process would draw for them."""
    return torch.rand(num_rows, *shape, device=device, generator=shared_generator(device))[share()]


def random_states() -> dict[str, Tensor]:
    """Random states for a checkpoint: `cpu` and `cuda` (in a group the shared ones), and each process's, `cpu.RofN`."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if world() == 1:
        return own
    states = {name: generator.get_state() for name, generator in _shared_generators.items()}
    for name, state in own.items():
        states |= {f"{name}.{r}of{world()}": of_rank for r, of_rank in enumerate(gather(state))}
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore `random_states`; each process's own state is restored only for the same number of processes.

    ValueError or RuntimeError if `states` are not random states.
    """
    foreign = [name for name in states if not re.fullmatch(r"(cpu|cuda)(\.\d+of\d+)?", name)]
    if foreign or not any(name.startswith("cpu") for name in states):
        raise ValueError(f"the random states are {sorted(states)}; expected cpu and optionally cuda")
    if any(state.dtype != torch.uint8 or state.dim() != 1 for state in states.values()):
        raise ValueError("the random states are not vectors of bytes")
    setters: dict[str, Callable[[Tensor], None]] = {"cpu": torch.set_rng_state}
    if torch.cuda.is_available():
        setters["cuda"] = torch.cuda.set_rng_state
    for name, set_state in setters.items():
        if world() > 1 and name in states:
            _shared_generators[name].set_state(states[name])
        own = name if world() == 1 else f"{name}.{rank()}of{world()}"
        if own in states:
            set_state(states[own])


def unsharded(x: Tensor) -> Tensor:
    """The full tensor if FSDP2 has sharded x, else x; every process must call this."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def sharded_like(x: Tensor, like: Any) -> Tensor:
    """x sharded like `like`; x itself if `like` is not sharded by FSDP2."""
    if like is None or not hasattr(like, "full_tensor") or x.shape != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def clip_grad_norm(module: nn.Module, max_norm: float) -> None:
    """Clip the norm of a module's gradients, computed over all processes if FSDP2 has sharded them.

    Entries of sparse gradients that have the same place are added up first.
    """
    for p in module.parameters():
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.coalesce()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    pieces = [_numbers_of(grad) for grad in grads]
    if all(piece is grad for piece, grad in zip(pieces, grads, strict=True)):
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)
        return
    copies = [1 if hasattr(grad, "to_local") else world() for grad in grads]
    squares = torch.stack([piece.square().sum() / n for piece, n in zip(pieces, copies, strict=True)])
    scale = (max_norm / (total(squares.sum()).sqrt() + 1e-6)).clamp(max=1)
    torch._foreach_mul_(pieces, scale)


def _numbers_of(grad: Any) -> Tensor:
    """The numbers of a gradient that this process has, as a dense tensor that shares their memory."""
    if hasattr(grad, "to_local"):
        return grad.to_local()
    return grad.values() if grad.is_sparse else grad


class _Loss(nn.Module):
    """A stage's loss as the forward of a module, so that DDP and FSDP2 can wrap it."""

    def __init__(self, module: nn.Module, loss: Callable[[Any], dict[str, Tensor]]):
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        values = self.loss(batch)
        return {name: value if name == "loss" else value.detach() for name, value in values.items()}


class Parallel:
    """A stage's loss with the gradients of the whole batch: wrapped by DDP or FSDP2 if there are several processes.

    FSDP2 shards weights, gradients and optimizer state. The weights are unsharded for a whole step, because a loss uses
    more of a model than its forward, and between steps after `gather`; code there may change buffers, not parameters.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Any], dict[str, Tensor]], kind: ParallelKind):
        self.module = module
        self.run: Any = loss
        self.plain: nn.Module | None = None
        self.cut: Any = None
        if world() > 1 and kind == "ddp":
            # a batch may leave a head unused
            self.run = nn.parallel.DistributedDataParallel(
                _Loss(module, loss), broadcast_buffers=False, find_unused_parameters=True
            )
        elif world() > 1:
            self._shard(loss)

    def _shard(self, loss: Callable[[Any], dict[str, Tensor]]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.plain = copy.deepcopy(self.module)
        for parameter in self.plain.parameters():
            parameter.data = parameter.data.new_empty(0)
        root, mesh = _Loss(self.module, loss), init_device_mesh(_device(self.module).type, (world(),))
        scalars = {p for p in self.module.parameters() if p.dim() == 0}  # fully_shard rejects them
        for scalar in scalars:
            scalar.register_post_accumulate_grad_hook(_average_grad)
        self.cut = self.run = fully_shard(root, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        self.gather()
        return self.run(batch)

    def gather(self) -> None:
        """Unshard the weights, for code that reads them outside a step."""
        if self.cut is not None:
            self.cut.unshard()

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """Load `weights` into the module, unsharded and unwrapped in every process."""
        if self.plain is not None:
            device = _device(self.module)
            for name, parameter in self.plain.named_parameters():
                parameter.data = weights[name].to(device)
            for module, plain in zip(list(self.module.modules()), self.plain.modules(), strict=True):
                module.__class__, module.__dict__ = plain.__class__, plain.__dict__
        self.module.load_state_dict(weights)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _average_grad(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= world()
