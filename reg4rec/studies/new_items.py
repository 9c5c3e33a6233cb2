"""A trained recommender and the items that came after its training."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.nn import functional as F

from reg4rec.data import ItemCatalog
from reg4rec.infer import Recommender
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer

__all__ = ["with_new_items"]


def with_new_items(
    recommender: Recommender, table: pa.Table, vectors: Mapping[str, npt.NDArray[np.float32]]
) -> Recommender:
    """The same recommender for a catalog to which the rows of `table` are appended; nothing is trained.

    New items have the tokens that the tokenizer gives them and no residual. `vectors` holds their matrix views.
    """
    old = recommender.items
    items = ItemCatalog.from_table(pa.concat_tables([old.table, table]), old.category_level)
    popularity_I = np.pad(recommender.popularity_I.cpu().numpy(), (0, table.num_rows))
    return Recommender(
        _wider(recommender.model, table.num_rows),
        _encoded(recommender.tokenizer, table, vectors),
        items,
        popularity_I,
        trained_on=recommender.trained_on,
        device=recommender.device,
    ).with_search(**asdict(recommender.config))


def _wider(model: Reg4RecModel, count: int) -> Reg4RecModel:
    """The model with residuals of 0 for `count` more items, where it scores items."""
    if not model.scores_items:
        return model
    wider = Reg4RecModel(replace(model.config, num_items=model.config.num_items + count))
    weights = model.state_dict()
    wider.load_state_dict(weights | {"residual_ID": F.pad(weights["residual_ID"], (0, 0, 0, count))})
    return wider


def _encoded(tokenizer: Tokenizer, table: pa.Table, vectors: Mapping[str, npt.NDArray[np.float32]]) -> Tokenizer:
    """The tokenizer with the tokens of the new items behind those of its own."""
    new_BV = tokenizer.views.transform(table, vectors)
    codes_BM = tokenizer.encode(new_BV)
    with torch.no_grad():
        mixed_BE = tokenizer.quantizer.mix(codes_BM.long(), torch.from_numpy(new_BV))
    return replace(
        tokenizer,
        views=replace(tokenizer.views, vectors_IV=np.vstack([tokenizer.views.vectors_IV, new_BV])),
        codes_IM=torch.cat([tokenizer.codes_IM, codes_BM]),
        quantized_IE=torch.cat([tokenizer.quantized_IE, mixed_BE]),
    )
