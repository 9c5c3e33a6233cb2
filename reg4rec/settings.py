"""Checks and changes of the fields of configuration dataclasses, by name."""

import math
import types
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reg4rec.errors import InputError

__all__ = [
    "SEEDS",
    "SEED_RANGE",
    "changed_by",
    "check_same_recipe",
    "check_seed",
    "check_settings",
    "differences",
    "override",
]

Config = TypeVar("Config")

SEEDS = range(1 << 31)
"""scikit-learn accepts seeds below 2^32, and each codebook adds its number to the seed."""
SEED_RANGE = f"from {SEEDS[0]} to {SEEDS[-1]}"
RUN_FIELDS = {"out", "seed", "device", "resume", "progress"}
"""Fields of `reg4rec.run.Run`, which users often give as settings of a stage."""


def check_settings(config: object, *rules: tuple[str, bool, str]) -> None:
    """InputError for the first setting that breaks its rule; a rule is (name, whether it holds, allowed values)."""
    for name, holds, wanted in rules:
        if not holds:
            raise InputError(f"{name} is {getattr(config, name)!r}; it must be {wanted}")


def check_seed(seed: int) -> None:
    """InputError for a seed that is not in SEEDS."""
    if seed not in SEEDS:
        raise InputError(f"seed is {seed}; it must be {SEED_RANGE}")


def check_same_recipe(tokens: str, wanted: str) -> None:
    """InputError if the recipe of the tokens is not that of a later stage's settings."""
    if tokens != wanted:
        raise InputError(
            f"the tokens are of the recipe {tokens!r}, these settings of {wanted!r}, and all stages need the same "
            f"recipe: fit tokens by the recipe {wanted!r}, or use settings of {tokens!r}"
        )


def differences(name: str, found: Any, wanted: Any) -> list[str]:
    """The dotted names of the values that differ between two settings given as JSON."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [name]
    keys = sorted(found.keys() | wanted.keys())
    return [place for key in keys for place in differences(f"{name}.{key}", found.get(key), wanted.get(key))]


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of a dataclass with `changes` to its fields, or to fields of the dataclasses in it.

    InputError names unknown settings and lists the known ones.
    """
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    own = {name: value for name, value in changes.items() if name in known}
    rest = {name: value for name, value in changes.items() if name not in known}
    for name in known:
        inner = getattr(config, name)
        if is_dataclass(inner) and not isinstance(inner, type) and name not in own:
            inside = {f.name for f in fields(inner)} & rest.keys()
            if inside:
                own[name] = replace(inner, **{key: rest.pop(key) for key in inside})
    if rest:
        wrong = ", ".join(sorted(rest))
        of_run = rest.keys() & RUN_FIELDS
        hint = " (out, seed, device, resume and progress belong to run=reg4rec.Run(...))" if of_run else ""
        raise InputError(f"{type(config).__name__} has no setting {wrong}{hint}; its settings are {', '.join(known)}")
    return replace(config, **own)  # type: ignore[type-var]


def changed_by(config: Config, values: dict[str, Any], where: str = "") -> Config:
    """A copy of a dataclass with the values of a nested mapping, as `dataclasses.asdict` writes it.

    Lists become tuples; a number may stand for a float, also as YAML's text (`2e-3`). InputError, with the dotted name
    (after `where`), for unknown settings and for values of another type.
    """
    hints = get_type_hints(type(config))
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"there is no setting {where}{name}; known here: {', '.join(known)}")
        inner = getattr(config, name)
        if is_dataclass(inner) and not isinstance(inner, type):
            if not isinstance(value, dict):
                raise InputError(f"{where}{name} must be a mapping of settings, found {value!r}")
            changes[name] = changed_by(inner, value, f"{where}{name}.")
        else:
            changes[name] = _as_hinted(hints[name], value, f"{where}{name}")
    return replace(config, **changes)  # type: ignore[type-var]


def _as_hinted(hint: Any, value: Any, name: str) -> Any:
    """The value in the type that its setting declares; InputError if it has another type."""
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for choice in choices:
        if choice is type(None) or choice is None:
            if value is None:
                return None
        elif get_origin(choice) is tuple:
            if isinstance(value, list | tuple):
                return tuple(_as_hinted(get_args(choice)[0], one, name) for one in value)
        elif choice is float:
            number = _as_float(value)
            if number is not None:
                return number
        elif value in get_args(choice) if get_origin(choice) is Literal else type(value) is choice:
            return value
    wanted = " or ".join(_described(choice) for choice in choices)
    raise InputError(f"{name} is {value!r}; it must be {wanted}")


def _described(choice: Any) -> str:
    if get_origin(choice) is Literal:
        return f"one of {', '.join(map(str, get_args(choice)))}"
    return {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}.get(choice, "a list")


def _as_float(value: Any) -> float | None:
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None
