"""Similar items are the nearest in the tokenizer's view of the items."""

import numpy as np
import pytest

from reg4rec.errors import InputError
from reg4rec.recommend import Recommender


def test_similar_items_are_the_nearest_vectors(recommender: Recommender) -> None:
    vectors = recommender.tokenizer.views.vectors_IV.astype("float64")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = recommender.similar_items(["item5", "item9"], k=4, to="polars")
    assert table["item_id"].to_list() == ["item5"] * 4 + ["item9"] * 4
    assert table["rank"].to_list() == [1, 2, 3, 4] * 2
    for name, row in (("item5", 5), ("item9", 9)):
        cosine = vectors @ vectors[row]
        cosine[row] = -2
        found = table.filter(table["item_id"] == name)
        assert found["score"].to_list() == pytest.approx(np.sort(cosine)[::-1][:4].tolist(), abs=1e-5)
        assert name not in found["similar_item_id"]
    assert recommender.similar_items(["item0"], k=1000, to="polars").height == len(recommender.items) - 1
    with pytest.raises(InputError, match="nothing-like-it"):
        recommender.similar_items(["nothing-like-it"], to="polars")
    with pytest.raises(InputError, match="at least 1"):
        recommender.similar_items(["item0"], k=0, to="polars")
