"""An op's call as one typed record, and what follows from it: the schema, the flat form, the struct that C++ reads.

A record is a NamedTuple whose fields are tensors, numbers, strings or records themselves, each of them optional or
not. An op passes it whole to its check, its eager definition and every implementation; only `torch.library` and
autograd, which know no records, see the fields one after the other.
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
    """The fields of a record in order, those of inner records among them."""

    def __init__(self, record: type, optional: bool = False):
        self.record, self.optional = record, optional
        hints = typing.get_type_hints(record)
        self.names: tuple[str, ...] = record._fields  # type: ignore[attr-defined]
        self.parts = [_part(hints[name], optional) for name in self.names]

    def flat(self) -> Iterator[tuple[str, str]]:
        """The name of each field and its type in schemas."""
        for name, part in zip(self.names, self.parts, strict=True):
            yield from part.flat() if isinstance(part, Layout) else [(name, part)]

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


def _part(hint: Any, optional: bool) -> "Layout | str":
    """The layout of an inner record, or the type of a value in schemas."""
    if isinstance(hint, types.UnionType):
        hint, optional = next(one for one in typing.get_args(hint) if one is not types.NoneType), True
    kind = "str" if typing.get_origin(hint) is typing.Literal else _KINDS.get(hint)
    return Layout(hint, optional) if kind is None else kind + "?" * optional


@functools.cache
def native_op(op: str) -> Callable[..., None]:
    """What runs an op in C++ on torch's number of threads, the fields of its struct (csrc/call.h) given by name."""
    from .. import _C

    return by_name(op, _C.fields(op), lambda packed: _C.call(op, packed, torch.get_num_threads()))


def by_name(op: str, fields: Sequence[tuple[str, str]], use: Callable[[bytes], Any]) -> Callable[..., Any]:
    """What packs a struct, given the name and the type in C++ of each field, and hands it on.

    It takes the fields by name; TypeError where they are not those of the struct. A tensor stands for its address, and
    where the struct has a view, for its strides too; None for no tensor. What is not a view must be contiguous.
    """
    words = [_words(name, kind) for name, kind in fields]
    # one expression, since a loop over the fields takes twice as long, and the tensors live until `use` has returned
    function = eval(
        f"lambda *, {', '.join(name for name, _ in fields)}: use(pack({', '.join(values for _, values in words)}))",
        {"use": use, "pack": struct.Struct("".join(kinds for kinds, _ in words)).pack},
    )
    function.__qualname__ = op
    return function


def _words(name: str, kind: str) -> tuple[str, str]:
    """What `struct` calls the eight-byte words of a field, and the expression that gives them."""
    if (view := re.match(r"(Raw|)View(\d)", kind)) is not None:
        size = f"{name}.element_size(), " if view[1] else ""
        kinds = "q" * (1 + bool(size) + int(view[2]))
        values = f"({name}.data_ptr(), {size}*{name}.stride()[:{view[2]}])"
        return kinds, f"*(({'0, ' * len(kinds)}) if {name} is None else {values})"
    if kind.endswith("*"):
        return "q", f"0 if {name} is None else {name}.data_ptr()"
    return "d" if kind == "double" else "q", name


def dense(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor, if there is one, as a struct takes it where it has no view of it."""
    return None if tensor is None else tensor.contiguous()


def dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a view takes it that has no stride for the last axis: with its numbers side by side there."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
