"""Names of tokens: the words that distinguish their items from others, by a textbook statistic."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats.contingency import chi2_contingency

from reg4rec.data import ItemCatalog
from reg4rec.data.shop import SyntheticShop
from reg4rec.tokenizer import Tokenizer, TokenNames


def named(tokenizer: Tokenizer, shop: SyntheticShop, titles: list[str], codes: list[int]) -> TokenNames:
    """Names in a catalog of these titles, whose first codebook is `codes`; items after them share a last token."""
    rest = tokenizer.num_items - len(titles)
    columns = {"item_id": shop.items.ids, "title": [*titles, *(f"rest{i}" for i in range(rest))]}
    codes_IM = torch.zeros_like(tokenizer.codes_IM)
    codes_IM[:, 0] = torch.tensor([*codes, *[15] * rest])
    return TokenNames(replace(tokenizer, codes_IM=codes_IM), ItemCatalog.from_table(pa.table(columns)))


def test_a_token_is_named_by_what_its_items_share_and_others_lack(tokenizer: Tokenizer, shop: SyntheticShop) -> None:
    titles = ["red shoe the", "red shirt the", "red hat the", "blue shoe", "blue shirt the", "blue hat", "old shoe"]
    names = named(tokenizer, shop, titles, [0, 0, 0, 1, 1, 1, 2])
    assert names.words_of(0, 0)[0] == "red"
    assert names.words_of(0, 1)[0] == "blue"
    assert names.words_of(0, 2) == []  # a word of one item alone is no name
    assert names.words_of(0, 7) == []  # no item has it
    assert "the" not in names.words_of(0, 0, count=50)  # a stop word


def test_ties_go_to_the_first_in_the_alphabet(tokenizer: Tokenizer, shop: SyntheticShop) -> None:
    names = named(tokenizer, shop, ["zinc moon apple", "apple zinc moon", "pear"], [0, 0, 1])
    assert names.words_of(0, 0) == ["apple", "moon", "zinc"]
    assert names.words_of(0, 0, count=2) == ["apple", "moon"]


def test_the_order_is_that_of_the_log_likelihood_ratio(tokenizer: Tokenizer, shop: SyntheticShop) -> None:
    names = TokenNames(tokenizer, shop.items)
    codes_I, present_IT = tokenizer.codes_IM[:, 0].numpy(), names.present_IT.toarray()
    checked = 0
    for code in np.unique(codes_I):
        carries = codes_I == code
        ratios = {}
        for word, has in zip(names.words, present_IT.T.astype(bool), strict=True):
            table = [[(a & b).sum() for b in (has, ~has)] for a in (carries, ~carries)]
            if table[0][0] >= max(2, carries.sum() / 10) and has[carries].mean() > has.mean():
                ratios[word] = chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
        expected = sorted(ratios, key=lambda word: (-round(ratios[word], 9), word))[:3]
        assert names.words_of(0, int(code)) == expected
        checked += len(expected)
    assert checked > 10


@pytest.mark.parametrize("codebook", range(3))
def test_nearest_items_carry_the_token_and_lie_at_its_codeword(
    tokenizer: Tokenizer, shop: SyntheticShop, codebook: int
) -> None:
    names = TokenNames(tokenizer, shop.items)
    code = int(tokenizer.codes_IM[0, codebook])
    rows = names.nearest_items(codebook, code, count=50)
    assert sorted(rows) == np.flatnonzero(tokenizer.codes_IM[:, codebook].numpy() == code).tolist()
    with torch.no_grad():
        latents_XE = tokenizer.quantizer.latents(torch.from_numpy(tokenizer.views.vectors_IV[rows]))[:, codebook]
        distances = (latents_XE - tokenizer.quantizer.codebooks_MKE[codebook, code]).square().sum(1)
    assert (distances.diff() >= 0).all()
    assert names.nearest_items(codebook, code, count=2) == rows[:2]


def test_a_catalog_without_texts_has_items_for_its_tokens_and_no_words(
    tokenizer: Tokenizer, shop: SyntheticShop
) -> None:
    names = TokenNames(tokenizer, ItemCatalog.from_table(pa.table({"item_id": shop.items.ids})))
    code = int(tokenizer.codes_IM[0, 0])
    assert names.words_of(0, code) == []
    assert names.nearest_items(0, code)


def test_a_collision_token_has_items_and_no_codeword(tokenizer: Tokenizer, shop: SyntheticShop) -> None:
    codes_IM = torch.cat([tokenizer.codes_IM, torch.zeros(tokenizer.num_items, 1, dtype=torch.int32)], dim=1)
    names = TokenNames(replace(tokenizer, codes_IM=codes_IM), shop.items)
    assert names.nearest_items(3, 0) == [0, 1, 2]
