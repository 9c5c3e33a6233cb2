"""The errors of fp8 in a model's values and products, for each scaling: `python bench/fp8_error.py` prints the table of
docs/precision.md. It trains a model in fp32 and measures every layer in one more step."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn

from reg4rec.data import Dataset, ViewConfig, load_dataset
from reg4rec.kernels.fp8_linear.reference import (
    E4M3,
    E5M2,
    Fp8Linear,
    Fp8LinearBackward,
    Scaling,
    fp8_linear_backward_reference,
    fp8_linear_reference,
    fp8_quantize,
)
from reg4rec.loop import make_optimizer
from reg4rec.model import Linear, Size
from reg4rec.precision.ladq import linear_layers
from reg4rec.run import Run
from reg4rec.tokenizer import TokenizerConfig, fit_tokenizer
from reg4rec.train import PretrainConfig
from reg4rec.train.pretrain import PretrainStage

OUTLIERS = (1e3, 1e4, 1e5)


class Seen(NamedTuple):
    """Input, weight and output gradient of a layer in one step."""

    x_TD: Tensor
    weight_OD: Tensor
    grad_TO: Tensor


def trained_step(data: Dataset, size: Size, steps: int) -> list[Seen]:
    """All calls of all layers in the step after `steps` training steps."""
    views = ViewConfig(text_dim=32, collaborative_dim=0)
    kind = TokenizerConfig(kind="product-k-means", num_codebooks=4, codebook_size=256, views=views)
    torch.manual_seed(0)
    tokenizer = fit_tokenizer(data, kind, Run(progress=False))
    stage = PretrainStage(data, tokenizer, PretrainConfig(size=size), 0, torch.device("cpu"))
    optimizer, taken = make_optimizer(stage.module.train(), stage.config.loop), 0
    seen: list[Seen] = []

    def look(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, Linear)
        x_TD, weight_OD = args[0].detach().flatten(0, -2), layer.weight.detach().clone()
        output.register_hook(lambda grad: seen.append(Seen(x_TD, weight_OD, grad.detach().flatten(0, -2).clone())))

    for epoch in range(steps):
        for batch in stage.batches(epoch):
            if taken == steps:
                for layer in linear_layers(stage.module).values():
                    layer.register_forward_hook(look)
            optimizer.zero_grad()
            stage.loss(batch)["loss"].backward()
            if taken == steps:
                return [layer for layer in seen if layer.grad_TO.any()]
            optimizer.step()
            taken += 1
    raise AssertionError("an epoch has at least one step")


def decibels(found: Tensor, right: Tensor) -> float:
    """Ratio of the signal and its rounding error, in decibels."""
    return float(10 * torch.log10(right.square().sum() / (found.double() - right).square().sum().clamp_min(1e-300)))


def cast(tensor: Tensor, dtype: torch.dtype, rowwise: bool) -> float:
    operand = fp8_quantize(tensor, dtype, rowwise)
    return decibels(operand.values.double() * operand.scale.double(), tensor.double())


def scaling_of(rowwise: bool) -> Scaling:
    return "rowwise" if rowwise else "tensorwise"


def product(which: int, layer: Seen, rowwise: bool) -> float:
    """Decibels of one product in fp8. which: 0 output, 1 gradient of the input, 2 gradient of the weight."""
    x_TD, weight_OD, grad_TO = layer
    scaling = scaling_of(rowwise)
    if which == 0:
        found = fp8_linear_reference(Fp8Linear(x_TD, weight_OD, None, scaling))
    else:
        found = fp8_linear_backward_reference(Fp8LinearBackward(grad_TO, x_TD, weight_OD, scaling))[which - 1]
    x_TD, weight_OD, grad_TO = (t.double() for t in layer)
    return decibels(found, (x_TD @ weight_OD.T, grad_TO @ weight_OD, grad_TO.T @ x_TD)[which])


def beside_outliers(factor: float, layer: Seen, rowwise: bool) -> float:
    """Decibels of the output if one row of input and of weight is `factor` times larger; these rows are left out."""
    x_TD, weight_OD = layer.x_TD.clone(), layer.weight_OD.clone()
    x_TD[0] *= factor
    weight_OD[0] *= factor
    found_TO = fp8_linear_reference(Fp8Linear(x_TD, weight_OD, None, scaling_of(rowwise)))
    return decibels(found_TO[1:, 1:], (x_TD.double() @ weight_OD.double().T)[1:, 1:])


MEASURES: dict[str, Callable[[Seen, bool], float]] = {
    "inputs, e4m3": lambda layer, rowwise: cast(layer.x_TD, E4M3, rowwise),
    "weight, e4m3": lambda layer, rowwise: cast(layer.weight_OD, E4M3, rowwise),
    "output gradients, e5m2": lambda layer, rowwise: cast(layer.grad_TO, E5M2, rowwise),
    "output": partial(product, 0),
    "gradient of the input": partial(product, 1),
    "gradient of the weight": partial(product, 2),
    **{f"output beside rows {factor:,.0f} times as large": partial(beside_outliers, factor) for factor in OUTLIERS},
}


def main(data: str = "amazon2014-beauty", size: Size = "tiny", steps: int = 600) -> None:
    """Print the table: decibels, the median over the layers and the worst layer."""
    layers = trained_step(load_dataset(data), size, steps)
    print("| | tensorwise | worst layer | rowwise | worst layer |\n|---|---:|---:|---:|---:|")
    for name, measure in MEASURES.items():
        values = [[measure(layer, rowwise) for layer in layers] for rowwise in (False, True)]
        print(f"| {name} | {' | '.join(f'{median(row):.1f} | {min(row):.1f}' for row in values)} |")


if __name__ == "__main__":
    tyro.cli(main)
