"""The fp8 layer quantizes its weight once, again only after a change of the weight, and always to the same bits."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels.fp8_linear import reference
from reg4rec.model import Linear

LAYOUTS = 2
"""One for the forward product, one for the backward product."""


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    layer = Linear(32, 48)
    layer.format = "fp8"
    return layer


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> Callable[[Linear], int]:
    """How often the weight of a layer, in either layout, has been quantized."""
    seen: list[int] = []
    quantize = reference.fp8_quantize

    def counted(tensor: Tensor, *how: object) -> reference.Operand:
        seen.append(tensor.data_ptr())
        return quantize(tensor, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(reference, "fp8_quantize", counted)
    return lambda layer: seen.count(layer.weight.data_ptr())


def step(layer: Linear) -> None:
    layer(torch.randn(5, 3, 32)).square().mean().backward()


def test_each_layout_is_made_once_for_all_batches_of_a_step(layer: Linear, quantized: Callable[[Linear], int]) -> None:
    for _ in range(3):
        step(layer)
        with torch.no_grad():
            layer.eval()(torch.randn(4, 32))
            layer.train()(torch.randn(4, 32))
    assert quantized(layer) == LAYOUTS


OPTIMIZERS: dict[str, Callable[[Linear], torch.optim.Optimizer]] = {
    "fused": lambda layer: torch.optim.AdamW(layer.parameters(), fused=True),
    "foreach": lambda layer: torch.optim.AdamW(layer.parameters(), foreach=True),
    "plain": lambda layer: torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_an_optimizer_step_quantizes_again(
    layer: Linear, quantized: Callable[[Linear], int], make: Callable[[Linear], torch.optim.Optimizer]
) -> None:
    optimizer = make(layer)
    for steps in (1, 2, 3):
        step(layer)
        assert quantized(layer) == steps * LAYOUTS
        optimizer.step()


def copy_in_place(layer: Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.randn(48, 32))


def set_format_after_a_write(layer: Linear) -> None:
    layer.weight.data.mul_(2)
    layer.format = "fp8"


def replace_data(layer: Linear) -> None:
    layer.weight.data = torch.randn(48, 32)


def replace_parameter(layer: Linear) -> None:
    layer.weight = torch.nn.Parameter(torch.randn(48, 32))


def drop_then_replace(layer: Linear) -> None:
    del layer.weight  # the next one may get its memory
    layer.weight = torch.nn.Parameter(torch.randn(48, 32))


def load(layer: Linear) -> None:
    layer.load_state_dict(Linear(32, 48).state_dict())


@pytest.mark.parametrize(
    "change", [copy_in_place, set_format_after_a_write, replace_data, replace_parameter, drop_then_replace, load]
)
def test_every_other_change_quantizes_again(layer: Linear, change: Callable[[Linear], None]) -> None:
    step(layer)
    change(layer)
    x_TD = torch.randn(4, 32)
    assert torch.equal(layer(x_TD), ops.fp8_linear(x_TD, layer.weight, layer.bias))


def test_a_copy_of_the_layer_has_its_own(layer: Linear) -> None:
    step(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.mul_(2)
    x_TD = torch.randn(4, 32)
    for one in (layer, other):
        assert torch.equal(one(x_TD), ops.fp8_linear(x_TD, one.weight, one.bias))


def test_training_is_bit_equal_to_quantizing_at_every_call(layer: Linear) -> None:
    plain = copy.deepcopy(layer)
    plain._fp8 = lambda x_TD: ops.fp8_linear(x_TD, plain.weight, plain.bias)  # type: ignore[method-assign]
    for one in (layer, plain):
        torch.manual_seed(1)
        optimizer = OPTIMIZERS["fused"](one)
        for _ in range(4):
            optimizer.zero_grad()
            step(one)
            step(one)
            optimizer.step()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])


def test_it_compiles_to_one_graph(layer: Linear) -> None:
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x_TD = torch.randn(4, 32)
    assert torch.equal(compiled(x_TD), layer(x_TD))
    copy_in_place(layer)
    assert torch.equal(compiled(x_TD), layer(x_TD))
