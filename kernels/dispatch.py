"""How an op finds its implementation: the first of cuda, triton, cpp, eager that has no objection to the call.

An implementation is a module in the op's package with `run(call)` and `objection(call) -> str | None`; it is imported
when a call first reaches it. Nothing is tried and caught: the choice is made before anything runs.
"""

import contextlib
import contextvars
import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map_only

from .call import Layout
from .checks import NegativeBitError
from .machine import backend_problem, machine_problem, native_problem

__all__ = [
    "BACKENDS",
    "BackendError",
    "Choice",
    "Op",
    "all_ops",
    "cpp_multiplies_bf16",
    "forced_backend",
    "status",
    "use_backend",
    "uses_cpp",
]

BACKENDS = ("cuda", "triton", "cpp", "eager")

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "reg4rec_backend", default=os.environ.get("REG4REC_BACKEND") or None
)
_ops: dict[str, "Op"] = {}


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call; the message says why."""


class Choice(NamedTuple):
    """The backend that a call would run on, and for each of the four why it is chosen or not."""

    backend: str
    reasons: dict[str, str]


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Force one backend for the calls inside the block (as the variable REG4REC_BACKEND does for a whole process)."""
    if backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}; the backends are {', '.join(BACKENDS)}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend() -> str | None:
    """The backend that calls are forced to; None if each op chooses."""
    return _forced.get()


def uses_cpp() -> bool:
    """Whether calls on the CPU run in C++ if the op has no objection."""
    return forced_backend() in (None, "cpp") and backend_problem("cpp", "cpu", asked=False) is None


def native_isa() -> str | None:
    """The instruction set that the extension uses; None without the extension."""
    if native_problem() is not None:
        return None
    from .. import _C

    return _C.isa()


def cpp_multiplies_bf16() -> bool:
    """Whether C++ can multiply bfloat16 here, by AMX tiles or AVX512-BF16."""
    if native_problem() is not None:
        return False
    from .. import _C

    return bool(_C.multiplies_bf16())


class Op:
    """One op: its checks, its eager definition, its accelerated implementations and its gradient.

    The public function makes a `record` of its arguments, a NamedTuple whose first field is a tensor on the call's
    device; everything else takes this record. `results`: the number of tensors returned. `check` raises ValueError for
    wrong dtypes, devices and shapes. `values` runs before the reference and raises ValueError for integers that are no
    valid indices; C++ checks these itself. `save(ctx, call, output)` and `backward(ctx, *grads)` are used as in
    `torch.library.register_autograd`, but `backward` returns gradients by field name; without them the op has no
    gradient. `mutates`: the fields that are written to.
    """

    def __init__(
        self,
        name: str,
        record: type,
        results: int,
        *,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        check: Callable[..., None] = lambda call: None,
        values: Callable[..., None] | None = None,
        implementations: Mapping[str, str] | None = None,
        save: Callable[..., None] | None = None,
        backward: Callable[..., Mapping[str, torch.Tensor | None]] | None = None,
        mutates: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.record = record
        self.check = check
        self.reference = reference
        self.values = values
        self.mutates = mutates
        self.layout = Layout(record)
        self.library = torch.library.custom_op(
            f"reg4rec::{name}", self.dispatch, mutates_args=mutates, schema=self._schema(results)
        )
        self.library.register_fake(lambda *flat: fake(self._restored(flat)))
        self._package = reference.__module__.rpartition(".")[0]
        modules = implementations or {}
        self._modules = {b: modules[b] for b in BACKENDS if b in modules}
        self._loaded: dict[str, ModuleType] = {}
        self._usable: dict[str, list[ModuleType]] = {}
        self._function = None
        if save is not None and backward is not None:
            self._function = _autograd_function(self, save, backward)
            self.library.register_autograd(self._function.backward_flat, setup_context=self._function.save_flat)
        _ops[name] = self

    def _schema(self, results: int) -> str:
        """`(Tensor p_logits_TC, ...) -> (Tensor, ...)`, as `torch.library` writes it."""
        fields = [
            f"Tensor(a{at}!) {name}" if name in self.mutates else f"{kind} {name}"
            for at, (name, kind) in enumerate(self.layout.flat())
        ]
        return f"({', '.join(fields)}) -> ({', '.join(['Tensor'] * results)})"

    def _restored(self, flat: tuple[Any, ...]) -> Any:
        return self.layout.restore(iter(flat))

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that have an implementation of this op, in the order in which they are asked."""
        return (*self._modules, "eager")

    def __call__(self, call: Any) -> Any:
        call = self._checked(call)
        if torch.compiler.is_compiling() or isinstance(call[0], FakeTensor):
            return self.library(*self.layout.flatten(call))
        if not torch.is_grad_enabled():
            return self._run(call)
        if self._function is not None:
            flat = tuple(self.layout.flatten(call))
            wants_gradient = any(isinstance(a, torch.Tensor) and a.requires_grad for a in flat)
            return self._function.apply(*flat) if wants_gradient else self._run(call)
        torch.set_grad_enabled(False)  # torch.no_grad() takes two microseconds more
        try:
            return self._run(call)
        finally:
            torch.set_grad_enabled(True)

    def _checked(self, call: Any) -> Any:
        """The call, checked and with torch's negative bit resolved."""
        try:
            self.check(call)
        except NegativeBitError as found:
            if found.name in self.mutates:
                raise
            call = tree_map_only(torch.Tensor, torch.Tensor.resolve_neg, call)
            self.check(call)
        return call

    def dispatch(self, *flat: Any) -> Any:
        """The body of the `torch.library` op; it checks values, since a compiler had shapes alone to check."""
        call = self._restored(flat)
        if self.values is not None:
            self.values(call)
        return self._run(call)

    def _run(self, call: Any) -> Any:
        """Run a checked call on the forced backend, or else on the first without an objection."""
        device = call[0].device.type
        if torch.is_autocast_enabled(device):
            # error bounds and fp64 decisions rely on an op computing in the dtypes of its arguments
            with torch.autocast(device, enabled=False):
                return self._run(call)
        forced = _forced.get()
        if forced is not None:
            return self._forced_implementation(forced, call)(call)
        for module in self._candidates(device):
            if module.objection(call) is None:
                return module.run(call)
        return self._run_eager(call)

    def _run_eager(self, call: Any) -> Any:
        if self.values is not None:
            self.values(call)
        return self.reference(call)

    def flat(self, *args: Any) -> tuple[Any, ...]:
        """The public function's arguments, checked, as `library` takes them."""
        return tuple(self.layout.flatten(self._checked(self.record(*args))))

    def which(self, *args: Any) -> Choice:
        """The backend that the public function would run on with these arguments, and why each is chosen or not."""
        call, forced, chosen = self._checked(self.record(*args)), _forced.get(), None
        if self.values is not None:
            self.values(call)
        reasons: dict[str, str] = {}
        for backend in BACKENDS:
            problem = self._objection(backend, call, asked=backend == forced)
            if problem is not None:
                reasons[backend] = problem
            elif forced is not None and backend != forced:
                reasons[backend] = f"{forced} was asked for"
            elif chosen is not None:
                reasons[backend] = f"{chosen} comes first"
            else:
                chosen, reasons[backend] = backend, "chosen"
        if chosen is None:
            raise BackendError(
                f"{self.name} cannot run on {forced}: {reasons.get(str(forced), 'there is no such backend')}"
            )
        return Choice(chosen, reasons)

    def _candidates(self, device: str) -> list[ModuleType]:
        """The implementations that this machine can run on tensors of a device type, best first."""
        if device not in self._usable:
            usable = [b for b in self._modules if backend_problem(b, device, asked=False) is None]
            self._usable[device] = [self._load(b) for b in usable]
        return self._usable[device]

    def _objection(self, backend: str, call: Any, asked: bool) -> str | None:
        if backend == "eager":
            return None
        if backend not in self._modules:
            return f"{self.name} has no {backend} implementation"
        problem = backend_problem(backend, call[0].device.type, asked)
        return problem if problem is not None else self._load(backend).objection(call)

    def _forced_implementation(self, backend: str, call: Any) -> Callable[..., Any]:
        if backend not in BACKENDS:
            raise BackendError(f"REG4REC_BACKEND={backend} is unknown; the backends are {', '.join(BACKENDS)}")
        problem = self._objection(backend, call, asked=True)
        if problem is not None:
            raise BackendError(f"{self.name} cannot run on {backend}: {problem}")
        return self._run_eager if backend == "eager" else self._load(backend).run

    def _load(self, backend: str) -> ModuleType:
        if backend not in self._loaded:
            self._loaded[backend] = importlib.import_module(f"{self._package}.{self._modules[backend]}")
        return self._loaded[backend]


def _autograd_function(
    op: Op, save: Callable[..., None], backward: Callable[..., Mapping[str, torch.Tensor | None]]
) -> Any:
    """The op's gradient, for `torch.library` and for calls that bypass it, which saves microseconds.

    The backward pass may run in another thread; it is forced to the backend that the forward pass was forced to.
    """
    names = [name for name, _ in op.layout.flat()]

    def save_flat(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        save(ctx, op.layout.restore(iter(inputs)), output)

    def backward_flat(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        found = backward(ctx, *grads)
        return tuple(found.get(name) for name in names)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.forced = _forced.get()
        save_flat(ctx, inputs, output)

    def run_backward(ctx: Any, *grads: Any) -> Any:
        token = _forced.set(ctx.forced)
        try:
            return backward_flat(ctx, *grads)
        finally:
            _forced.reset(token)

    body = {
        "forward": staticmethod(op.dispatch),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(torch.autograd.function.once_differentiable(run_backward)),
        "save_flat": staticmethod(save_flat),
        "backward_flat": staticmethod(backward_flat),
    }
    return type(f"{op.name}_function", (torch.autograd.Function,), body)


@functools.cache
def _machine_problems() -> dict[str, str | None]:
    return {backend: machine_problem(backend) for backend in BACKENDS}


def all_ops() -> dict[str, Op]:
    """Every op that has been defined, by name."""
    return dict(_ops)


def _note(backend: str) -> str:
    """What `status` says of a backend that this machine has."""
    if backend != "cpp":
        return "available"
    try:
        return f"available, on {native_isa()}"
    except ValueError as error:  # REG4REC_ISA names no instruction set of this machine
        return str(error)


def status() -> dict[str, dict[str, Any]]:
    """What `reg4rec info` shows: per backend "available" or why not, per op its backends, and what is forced."""
    return {
        "backends": {b: _machine_problems()[b] or _note(b) for b in BACKENDS},
        "ops": {name: op.backends for name, op in _ops.items()},
        "forced": {"backend": _forced.get()},
    }
