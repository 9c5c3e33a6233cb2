"""A trained recommender and the items that came after its training."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from reg4rec.data import ItemCatalog, ItemViews
from reg4rec.infer import Recommender
from reg4rec.model import Reg4RecModel
from reg4rec.tokenizer import Tokenizer

__all__ = ["with_new_items"]

Float32 = npt.NDArray[np.float32]


def with_new_items(recommender: Recommender, table: pa.Table, vectors: Mapping[str, Float32]) -> Recommender:
    """The same recommender for a catalog to which the rows of `table` are appended; nothing is trained.

    New items have the tokens that the tokenizer gives them and the residual to expect of them (`ItemViews.expected`).
    `vectors` holds their matrix views.
    """
    views = recommender.tokenizer.views
    new_BV = views.transform(table, vectors)
    old = recommender.items
    items = ItemCatalog.from_table(pa.concat_tables([old.table, table]), old.category_level)
    popularity_I = np.pad(recommender.popularity_I.cpu().numpy(), (0, table.num_rows))
    return Recommender(
        _wider(recommender.model, views, new_BV),
        _encoded(recommender.tokenizer, new_BV),
        items,
        popularity_I,
        trained_on=recommender.trained_on,
        device=recommender.device,
    ).with_search(**asdict(recommender.config))


def _wider(model: Reg4RecModel, views: ItemViews, new_BV: Float32) -> Reg4RecModel:
    """The model with residuals for new items, where it scores items."""
    if not model.scores_items:
        return model
    wider = Reg4RecModel(replace(model.config, num_items=model.config.num_items + len(new_BV)))
    weights = model.state_dict()
    old_ID = weights["residual_ID"].cpu()
    new_BD = torch.from_numpy(views.expected(new_BV, old_ID.numpy()))
    wider.load_state_dict(weights | {"residual_ID": torch.cat([old_ID, new_BD])})
    return wider


def _encoded(tokenizer: Tokenizer, new_BV: Float32) -> Tokenizer:
    """The tokenizer with the tokens of the new items behind those of its own."""
    codes_BM = tokenizer.encode(new_BV)
    with torch.no_grad():
        mixed_BE = tokenizer.quantizer.mix(codes_BM.long(), torch.from_numpy(new_BV))
    return replace(
        tokenizer,
        views=replace(tokenizer.views, vectors_IV=np.vstack([tokenizer.views.vectors_IV, new_BV])),
        codes_IM=torch.cat([tokenizer.codes_IM, codes_BM]),
        quantized_IE=torch.cat([tokenizer.quantized_IE, mixed_BE]),
    )
