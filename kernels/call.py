"""An op's call as one typed record, and what follows from it: the schema, the flat form, the struct that C++ reads.

A record is a NamedTuple whose fields are tensors, numbers, or records themselves, each of them optional or not. An op
that has one passes it whole to its eager definition and to every implementation; only `torch.library`, which knows no
records, sees the fields one after the other.
"""

import functools
import itertools
import struct
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .dispatch import Op

__all__ = ["RecordOp", "call_native"]

_KINDS = {torch.Tensor: "Tensor", int: "SymInt", float: "float", bool: "bool"}


class Layout:
    """The fields of a record in order, those of inner records among them."""

    def __init__(self, record: type, optional: bool = False):
        self.record, self.optional = record, optional
        hints = typing.get_type_hints(record)
        self.parts = [_part(name, hints[name], optional) for name in record._fields]  # type: ignore[attr-defined]

    def schema(self) -> list[str]:
        """`Tensor states_BD` and so on, as `torch.library` writes arguments."""
        return [text for part in self.parts for text in (part.schema() if isinstance(part, Layout) else [part])]

    def flatten(self, call: Any) -> Iterator[Any]:
        """The values of all fields; None for each of an inner record that is not there."""
        for part, value in zip(self.parts, itertools.repeat(None) if call is None else call, strict=False):
            if isinstance(part, Layout):
                yield from part.flatten(value)
            else:
                yield value

    def restore(self, flat: Iterator[Any]) -> Any:
        """The record of which these are the next values."""
        values = [part.restore(flat) if isinstance(part, Layout) else next(flat) for part in self.parts]
        is_missing = self.optional and all(value is None for value in values)
        return None if is_missing else self.record(*values)


def _part(name: str, hint: Any, optional: bool) -> "Layout | str":
    """The layout of an inner record, or the schema of a value."""
    if isinstance(hint, types.UnionType):
        hint, optional = next(one for one in typing.get_args(hint) if one is not types.NoneType), True
    return f"{_KINDS[hint]}{'?' * optional} {name}" if hint in _KINDS else Layout(hint, optional)


class RecordOp(Op):
    """An op of a record: `check` makes it of the public function's arguments, and all else takes it whole.

    The record's first field is a tensor, whose device is that of the call. `results`: how many tensors come out.
    Without gradient.
    """

    def __init__(
        self,
        name: str,
        record: type,
        results: int,
        *,
        check: Callable[..., Any],
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        values: Callable[..., None] | None = None,
        implementations: Mapping[str, str] | None = None,
    ) -> None:
        self.layout = Layout(record)
        schema = f"({', '.join(self.layout.schema())}) -> ({', '.join(['Tensor'] * results)})"
        super().__init__(
            name,
            schema,
            check=check,
            reference=reference,
            fake=lambda *flat: fake(self.layout.restore(iter(flat))),
            values=values,
            implementations=implementations,
        )

    def __call__(self, *args: Any) -> Any:
        call = self._checked(args)
        if torch.compiler.is_compiling() or isinstance(call[0], FakeTensor):
            return self.library(*self.layout.flatten(call))
        if torch.is_grad_enabled():  # asking takes a fifteenth of what turning it off does
            with torch.no_grad():
                return self._run((call,))
        return self._run((call,))

    def dispatch(self, *flat: Any) -> Any:
        return super().dispatch(self.layout.restore(iter(flat)))

    def arguments(self, *args: Any) -> tuple[Any, ...]:
        return (self._checked(args),)

    def flat(self, *args: Any) -> tuple[Any, ...]:
        return tuple(self.layout.flatten(self.check(*args)))

    def _device(self, flat: tuple[Any, ...]) -> str:
        return str(flat[0][0].device.type)


def call_native(op: str, **fields: Any) -> None:
    """Run an op in C++ on torch's number of threads, the fields of its struct given by name.

    A tensor stands for its address, so it must be contiguous and outlive the call; None for no address. TypeError
    where the names are not those of the struct.
    """
    from .. import _C

    names, packer = _struct(op)
    if fields.keys() != names.keys():
        raise TypeError(f"{op}: its struct has the fields {', '.join(names)}; found {', '.join(fields)}")
    values = [fields[name] for name in names]
    words = [0 if v is None else v.data_ptr() if isinstance(v, torch.Tensor) else v for v in values]
    _C.call(op, packer.pack(*words), torch.get_num_threads())


@functools.cache
def _struct(op: str) -> tuple[dict[str, None], struct.Struct]:
    """The names of the fields of an op's struct in C++, and what packs their values: eight bytes each."""
    from .. import _C

    fields = _C.fields(op)
    return dict.fromkeys(name for name, _ in fields), struct.Struct(
        "".join("d" if is_float else "q" for _, is_float in fields)
    )
