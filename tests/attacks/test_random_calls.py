"""Some random calls of every op; `python -m tests.attacks.ops --calls N` makes more."""

import pytest
import torch

from reg4rec.kernels.machine import native_problem
from tests.attacks.ops import OPS, attack
from tests.isa import selected_isa


@pytest.mark.skipif(native_problem() is not None, reason="no extension")
@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_random_calls_agree_or_are_refused_alike(isa: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with selected_isa(isa):
            counts = attack(range(1000))
    finally:
        torch.set_num_threads(before)
    assert counts.differ == []
    assert set(counts.ops) == set(OPS)
    assert min(counts.outcomes["answered"], counts.outcomes["refused"]) > 200
