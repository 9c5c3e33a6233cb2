"""Saving and loading a baseline's network with its items and settings."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from reg4rec.data import ItemCatalog
from reg4rec.errors import InputError
from reg4rec.storage import new_header, read_header, read_tensors, write_header, write_tensors
from reg4rec.writing import atomic_folder

__all__ = ["load_network", "save_network"]

Network = TypeVar("Network", bound=nn.Module)
Config = TypeVar("Config")


def save_network(
    folder: str | Path, name: str, version: int, network: nn.Module, items: ItemCatalog, config: Any
) -> None:
    """Write the folder of a baseline, with the header `NAME.json`, replacing an earlier one."""
    with atomic_folder(folder, f"{name}.json") as fresh:
        write_tensors(fresh / "model.safetensors", network.state_dict())
        items.save(fresh / "items.parquet")
        header = new_header(f"reg4rec-{name}", version, category_level=items.category_level)
        write_header(
            fresh / f"{name}.json", {**header, "config": asdict(config)}, ["model.safetensors", "items.parquet"]
        )


def load_network(
    folder: str | Path,
    name: str,
    version: int,
    title: str,
    configured: Callable[[dict[str, Any]], Config],
    build: Callable[[int, Config], Network],
) -> tuple[Network, ItemCatalog, Config]:
    """Load what `save_network` wrote; `build` makes the network from the number of items and the settings.

    InputError, which calls the baseline `title`, if files are missing, damaged or do not fit together.
    """
    folder = Path(folder)
    header = read_header(folder / f"{name}.json", f"reg4rec-{name}", version)
    try:
        config = configured(header["config"])
        items = ItemCatalog.load(folder / "items.parquet", header["category_level"])
        network = build(len(items), config)
        network.load_state_dict(read_tensors(folder / "model.safetensors"))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{folder} does not contain a complete {title}: {error}") from None
    return network, items, config
