"""An op's call as one typed record, and what follows from it: the schema, the flat form, the struct that C++ reads.

A record is a NamedTuple whose fields are tensors, numbers, strings or other records; any of them may be optional. An op
passes it whole to its check, its eager definition and every implementation. Only `torch.library` and autograd, which
cannot take records, get the fields as flat arguments.
"""

import functools
import itertools
import re
import struct
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

__all__ = ["Layout", "by_name", "dense", "dense_rows", "native_op"]

_KINDS = {torch.Tensor: "Tensor", int: "SymInt", float: "float", bool: "bool"}


class Layout:
    """The fields of a record in order, with the fields of inner records in their place."""

    def __init__(self, record: type, optional: bool = False):
        self.record, self.optional = record, optional
        hints = typing.get_type_hints(record)
        self.names: tuple[str, ...] = record._fields  # type: ignore[attr-defined]
        self.parts = [_part(hints[name], optional) for name in self.names]

    def flat(self) -> Iterator[tuple[str, str]]:
        """The name of each field and its type in a `torch.library` schema."""
        for name, part in zip(self.names, self.parts, strict=True):
            yield from part.flat() if isinstance(part, Layout) else [(name, part)]

    def flatten(self, call: Any) -> Iterator[Any]:
        """The values of all fields; an inner record that is None gives None for each of its fields."""
        for part, value in zip(self.parts, itertools.repeat(None) if call is None else call, strict=False):
            if isinstance(part, Layout):
                yield from part.flatten(value)
            else:
                yield value

    def restore(self, flat: Iterator[Any]) -> Any:
        """The record made of the next values of `flat`."""
        values = [part.restore(flat) if isinstance(part, Layout) else next(flat) for part in self.parts]
        is_missing = self.optional and all(value is None for value in values)
        return None if is_missing else self.record(*values)


def _part(hint: Any, optional: bool) -> "Layout | str":
    """The layout of an inner record, or the schema type of any other field."""
    if isinstance(hint, types.UnionType):
        hint, optional = next(one for one in typing.get_args(hint) if one is not types.NoneType), True
    kind = "str" if typing.get_origin(hint) is typing.Literal else _KINDS.get(hint)
    return Layout(hint, optional) if kind is None else kind + "?" * optional


@functools.cache
def native_op(op: str) -> Callable[..., None]:
    """A function that runs an op in C++ on torch's number of threads, given the fields of its struct by name."""
    from .. import _C

    return by_name(op, _C.fields(op), lambda packed: _C.call(op, packed, torch.get_num_threads()))


def by_name(op: str, fields: Sequence[tuple[str, str]], use: Callable[[bytes], Any]) -> Callable[..., Any]:
    """A function that takes the fields of a struct (csrc/call.h) by name, packs them and passes the bytes to `use`.

    fields: the name and the C++ type of each. TypeError if the names are not those of the struct. A tensor is packed as
    its address, for a view also its strides; None as zeros. A tensor for a field that is no view must be contiguous.
    """
    words = [_words(name, kind) for name, kind in fields]
    # one expression: a loop over the fields takes twice as long, and the arguments keep the tensors alive during `use`
    function = eval(
        f"lambda *, {', '.join(name for name, _ in fields)}: use(pack({', '.join(values for _, values in words)}))",
        {"use": use, "pack": struct.Struct("".join(kinds for kinds, _ in words)).pack},
    )
    function.__qualname__ = op
    return function


def _words(name: str, kind: str) -> tuple[str, str]:
    """The `struct` format of a field's eight-byte words, and the expression that computes them."""
    if (view := re.match(r"(Raw|)View(\d)", kind)) is not None:
        size = f"{name}.element_size(), " if view[1] else ""
        kinds = "q" * (1 + bool(size) + int(view[2]))
        values = f"({name}.data_ptr(), {size}*{name}.stride()[:{view[2]}])"
        return kinds, f"*(({'0, ' * len(kinds)}) if {name} is None else {values})"
    if kind.endswith("*"):
        return "q", f"0 if {name} is None else {name}.data_ptr()"
    return "d" if kind == "double" else "q", name


def dense(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The tensor, contiguous, for a field that is a plain pointer; None stays None."""
    return None if tensor is None else tensor.contiguous()


def dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with a last axis of stride 1, for a view that has no stride for that axis."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
