"""The encoder as a file that runs without reg4rec: histories in, user vectors out."""

import copy
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from reg4rec.errors import InputError
from reg4rec.recommend.recommender import Recommender
from reg4rec.writing import atomic_file

__all__ = ["export_encoder"]

MOST_BYTES = 2**31 - 1
"""What an ONNX file holds."""


def export_encoder(recommender: Recommender, folder: str | Path) -> None:
    """Write `encoder.pt2` (torch.export) and `encoder.onnx` into a folder that exists.

    Both take item_rows (B, L), int64: rows of the catalog, oldest first. Numbers below 0 (padding, unknown items) are
    skipped wherever they are, and of long histories the newest items are read. They return user_vectors (B, D),
    float32, the same as `Recommender.user_vectors`, but compute padding too: `pytest bench/bench_rivals.py -k encode`.
    InputError for models that do not score items, without the packages of the extra `onnx`, and above 2 GB.
    """
    recommender.check_scores_items("export_encoder")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise InputError(
            f"the package {missing.name} is missing; pip install 'reg4rec[onnx]', or export vectors only"
        ) from None
    encoder = _Encoder(recommender)
    if (size := sum(tensor.nbytes for tensor in encoder.state_dict().values())) > MOST_BYTES:
        raise InputError(f"the encoder has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2 GiB")
    dimensions = {0: torch.export.Dim("users", min=1), 1: torch.export.Dim("length", min=1)}
    example_BL = torch.tensor([[0, 0, -1], [0, -1, -1]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the inside of PyTorch's exporters
        program = torch.export.export(encoder, (example_BL,), dynamic_shapes={"item_rows": dimensions})
        stored = io.BytesIO()
        torch.export.save(program, stored)
        onnx_program = torch.onnx.export(
            program,
            (example_BL,),
            dynamo=True,
            verbose=False,
            input_names=["item_rows"],
            output_names=["user_vectors"],
            dynamic_shapes={"item_rows": {0: "users", 1: "length"}},
        )
    assert onnx_program is not None
    for name, content in (
        ("encoder.pt2", stored.getvalue()),
        ("encoder.onnx", onnx_program.model_proto.SerializeToString()),
    ):
        with atomic_file(Path(folder) / name) as fresh:
            fresh.write_bytes(content)


class _Encoder(nn.Module):
    """The recommender's encoder with the tokens of the catalog.

    It moves the newest items to the front, computes all slots and takes the last item's.
    """

    codes_IM: Tensor

    def __init__(self, recommender: Recommender):
        super().__init__()
        self.model = copy.deepcopy(recommender.model).float().cpu().eval().requires_grad_(False)
        del self.model.decoder, self.model.category_head, self.model.refine
        self.register_buffer("codes_IM", recommender.codes_IM.cpu().clone())

    def forward(self, item_rows: Tensor) -> Tensor:
        most, (num_users, length) = self.model.config.max_history, item_rows.shape
        known_BL = item_rows >= 0
        count_B = known_BL.sum(1)
        length_B = count_B.clamp(max=most)
        width = torch.sym_min(length, most)  # a slice up to `most` would be traced for one length only
        place_BL = known_BL.cumsum(1) - 1 - (count_B - length_B)[:, None]
        place_BL = torch.where(known_BL & (place_BL >= 0), place_BL, width)  # the last column is cut off
        row_BL = item_rows.new_zeros(num_users, width + 1).scatter(1, place_BL, item_rows)[:, :-1]
        states_BTD = self.model(self.codes_IM[row_BL], row_BL)
        last_B11 = (length_B * self.model.slots_per_item)[:, None, None]
        return states_BTD.gather(1, last_B11.expand(-1, 1, states_BTD.shape[2])).squeeze(1)
