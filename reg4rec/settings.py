"""Checks and changes of the fields of configuration dataclasses, by name."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from reg4rec.errors import InputError

__all__ = ["SEEDS", "SEED_RANGE", "check_same_recipe", "check_seed", "check_settings", "differences", "override"]

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
