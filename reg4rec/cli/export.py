"""`reg4rec export`: item and user vectors as files, for another index."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from reg4rec.cli.output import show
from reg4rec.data import load_dataset
from reg4rec.errors import InputError, warn
from reg4rec.recommend import Recommender
from reg4rec.recommend.exported import export_encoder
from reg4rec.recommend.histories import known_sequences
from reg4rec.storage import new_header, write_header
from reg4rec.writing import atomic_folder

__all__ = ["Export"]

FORMAT, VERSION = "reg4rec-vectors", 1
ENCODER = ("encoder.onnx", "encoder.pt2")


@dataclass(frozen=True)
class Export:
    """Write the vectors of items and users, for another index: `reg4rec export --model DIR --output vectors`.

    Writes items.parquet (item_id, vector) without removed items, items.npy in the same order, users.parquet and
    users.npy with --data, and vectors.json. An item's score is the product of both vectors, plus vectors.json's
    repeat_bias for items of the history.
    """

    model: Path
    """recommender folder; its model must score items"""
    output: Path
    """folder for the files, replaced as a whole"""
    data: str | None = None
    """dataset folder or name of a public dataset; exports a vector of each of its users, from the whole history"""
    encoder: bool = False
    """also write the encoder as encoder.onnx and encoder.pt2, and catalog.parquet, whose row numbers it takes (extra
    `onnx`)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    json: bool = False
    """print one JSON object instead of text"""

    def run(self) -> None:
        recommender = Recommender.from_pretrained(self.model, self.device)
        live_I = ~recommender.live.removed_I.cpu().numpy()
        parts: dict[str, tuple[str, pa.Array, npt.NDArray[np.float32]]] = {
            "items": ("item_id", recommender.items.ids.filter(pa.array(live_I)), recommender.item_vectors()[live_I])
        }
        if self.data is not None:
            data = load_dataset(self.data)
            rows_I = recommender.items.rows(data.items.ids)
            if (unknown := int((rows_I < 0).sum())) == len(rows_I):
                raise InputError(f"the recommender knows no item of {data.name}; give the data that it was made for")
            if unknown:
                warn(f"{unknown:,} of {len(rows_I):,} items of {data.name} are unknown here and were skipped")
            histories = known_sequences(rows_I[data.sequences.items], data.sequences.lengths)
            parts["users"] = ("user_id", data.user_ids, recommender.states(histories))
        facts: dict[str, Any] = {name: len(ids) for name, (_, ids, _) in parts.items()}
        facts |= {"width": recommender.model.config.dim, "repeat_bias": float(recommender.model.repeat_bias.detach())}
        with atomic_folder(self.output, "vectors.json", ["*.parquet", "*.npy", *ENCODER]) as fresh:
            for name, (column, ids, vectors) in parts.items():
                lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
                pq.write_table(pa.table({column: ids, "vector": lists}), fresh / f"{name}.parquet")
                np.save(fresh / f"{name}.npy", vectors)
            if self.encoder:
                export_encoder(recommender, fresh)
                pq.write_table(pa.table({"item_id": recommender.items.ids}), fresh / "catalog.parquet")
            files = [f"{name}.{ending}" for name in parts for ending in ("parquet", "npy")]
            files += [*ENCODER, "catalog.parquet"] if self.encoder else []
            write_header(fresh / "vectors.json", new_header(FORMAT, VERSION, **facts), files)
        text = ", ".join(f"{facts[name]:,} {name}" for name in parts)
        show(f"vectors of {text}, width {facts['width']}\n{self.output}", {"output": self.output, **facts}, self.json)
