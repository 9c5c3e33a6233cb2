"""A T5 of the sizes of `small` that decodes items token by token, as torch, ONNX Runtime and CTranslate2 run it.

Its weights are random. Code j of codebook m is token m * K + j; a history is the tokens of its items, oldest first.
"""

import copy
import warnings
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

SHAPE = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}


@cache
def random_t5(num_tokens: int) -> Any:
    """A T5 with random weights; its vocabulary is the tokens, a start token, and an end token that is never used."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    special = {"pad_token_id": num_tokens, "decoder_start_token_id": num_tokens, "eos_token_id": num_tokens + 1}
    config = transformers.T5Config(vocab_size=num_tokens + 2, **SHAPE, **special)
    return transformers.T5ForConditionalGeneration(config).eval()


def trie(codes_IM: npt.NDArray[np.int64], codebook_size: int) -> tuple[Tensor, Tensor]:
    """(children_XK, item_T): the child of node x by code j (-1 for none), and the items of the leaves.

    Node 0 is the root; leaf t is node X + t, and its item is the lowest row with that path.
    """
    tables, node_I, base = [], np.zeros(len(codes_IM), dtype=np.int64), 0
    for code_I in codes_IM.T:
        table_T = np.full((node_I.max() + 1) * codebook_size, -1)
        base += len(table_T) // codebook_size
        key_T, item_T, node_I = np.unique(node_I * codebook_size + code_I, return_index=True, return_inverse=True)
        table_T[key_T] = base + np.arange(len(key_T))
        tables.append(table_T.reshape(-1, codebook_size))
    return torch.from_numpy(np.concatenate(tables)), torch.from_numpy(item_T)


class TrieBeams(nn.Module):
    """From histories to items: encoder and all steps of a beam search over a trie, as one graph without loops.

    The keys and values of a history are computed once for each user and shared by all paths of the user.
    """

    def __init__(self, t5: Any, children_XK: Tensor, item_T: Tensor, num_codebooks: int, num_beams: int):
        super().__init__()
        self.t5, self.num_codebooks, self.num_beams = t5, num_codebooks, num_beams
        self.children_XK, self.item_T = nn.Buffer(children_XK), nn.Buffer(item_T)

    def forward(self, token_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(items_BW, scores_BW), best first, for histories of equal length."""
        memory_BTD = self._encode(token_BT)
        read = [block.layer[1].EncDecAttention for block in self.t5.decoder.block]
        memory = [tuple(_heads(linear(memory_BTD)).transpose(1, 2) for linear in (a.k, a.v)) for a in read]
        own: list[Any] = [None] * len(read)
        token_BW = torch.full_like(token_BT[:, :1], self.t5.config.decoder_start_token_id)
        node_BW, score_BW = torch.zeros_like(token_BW), torch.zeros_like(token_BW, dtype=memory_BTD.dtype)
        codebook_size = self.children_XK.shape[1]
        for step in range(self.num_codebooks):
            logits_BWT, own = self._decode(token_BW, step, own, memory)
            begin = step * codebook_size
            log_prob_BWK = logits_BWT.log_softmax(-1)[..., begin : begin + codebook_size]
            child_BWK = self.children_XK[node_BW]
            total_BWK = (score_BW[..., None] + log_prob_BWK).masked_fill(child_BWK < 0, -torch.inf)
            score_BW, place_BW = total_BWK.flatten(1).topk(self.num_beams)
            node_BW = child_BWK.flatten(1).gather(1, place_BW)
            token_BW, parent_BW = begin + place_BW % codebook_size, place_BW // codebook_size
            own = [tuple(_rows(kept, parent_BW) for kept in pair) for pair in own]
        return self.item_T[node_BW - len(self.children_XK)], score_BW

    def _encode(self, token_BT: Tensor) -> Tensor:
        encoder = self.t5.encoder
        bias_ATT = encoder.block[0].layer[0].SelfAttention.compute_bias(token_BT.shape[1], token_BT.shape[1])[0]
        x_BTD = self.t5.shared(token_BT)
        for block in encoder.block:
            read, feed = block.layer
            a, y_BTD = read.SelfAttention, read.layer_norm(x_BTD)
            q, k, v = (_heads(linear(y_BTD)).transpose(1, 2) for linear in (a.q, a.k, a.v))
            mixed_BATQ = (q @ k.transpose(2, 3) + bias_ATT).softmax(-1) @ v
            x_BTD = feed(x_BTD + a.o(mixed_BATQ.transpose(1, 2).flatten(2)))
        return encoder.final_layer_norm(x_BTD)

    def _decode(self, token_BW: Tensor, step: int, own: list[Any], memory: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits after one more token of every path, and the paths' keys and values including that token."""
        decoder, grown = self.t5.decoder, []
        bias_AS = decoder.block[0].layer[0].SelfAttention.compute_bias(step + 1, step + 1)[0, :, -1]
        x_BWD = self.t5.shared(token_BW)
        for block, kept, (keys_BATQ, values_BATQ) in zip(decoder.block, own, memory, strict=True):
            path, history, feed = block.layer
            a, y_BWD = path.SelfAttention, path.layer_norm(x_BWD)
            q_BWAQ, k_BWAQ, v_BWAQ = (_heads(linear(y_BWD)) for linear in (a.q, a.k, a.v))
            new = k_BWAQ[:, :, :, None], v_BWAQ[:, :, :, None]
            pairs = [(one,) if kept is None else (before, one) for before, one in zip(kept or new, new, strict=True)]
            keys_BWASQ, values_BWASQ = (torch.cat(pair, dim=3) for pair in pairs)
            grown.append((keys_BWASQ, values_BWASQ))
            weight_BWAS = ((q_BWAQ[:, :, :, None] * keys_BWASQ).sum(-1) + bias_AS).softmax(-1)
            x_BWD = x_BWD + a.o((weight_BWAS[..., None] * values_BWASQ).sum(3).flatten(2))
            a = history.EncDecAttention
            q_BAWQ = _heads(a.q(history.layer_norm(x_BWD))).transpose(1, 2)
            mixed_BAWQ = (q_BAWQ @ keys_BATQ.transpose(2, 3)).softmax(-1) @ values_BATQ
            x_BWD = feed(x_BWD + a.o(mixed_BAWQ.transpose(1, 2).flatten(2)))
        state_BWD = decoder.final_layer_norm(x_BWD) * SHAPE["d_model"] ** -0.5
        return self.t5.lm_head(state_BWD), grown


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (SHAPE["num_heads"], SHAPE["d_kv"]))


def _rows(kept_BWASQ: Tensor, parent_BW: Tensor) -> Tensor:
    user_B1 = torch.arange(parent_BW.shape[0])[:, None]
    return kept_BWASQ[user_B1, parent_BW]


@cache
def onnx_session(model: TrieBeams, history_tokens: int) -> Any:
    """An ONNX Runtime session of the whole graph, for any number of users in `tokens`, with torch's thread count."""
    pytest.importorskip("onnx")
    example_BT, names = torch.zeros(2, history_tokens, dtype=torch.int64), ["tokens"]
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path, axes = f"{folder}/t5.onnx", {"tokens": {0: "users"}}
        # tracing takes a tenth of the time of torch.export
        torch.onnx.export(model, (example_BT,), path, dynamo=False, input_names=names, dynamic_axes=axes)
        return session_of(path)


def session_of(path: str) -> Any:
    """An ONNX Runtime session of a file, with torch's thread count."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@cache
def translator(t5: Any, compute_type: str) -> Any:
    """A CTranslate2 translator with torch's thread count; its words are token numbers."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    loader = ctranslate2.converters.transformers.T5Loader()  # it changes the given weights
    spec, words = loader.get_model_spec(copy.deepcopy(t5)), [str(token) for token in range(t5.config.vocab_size)]
    loader.set_vocabulary(spec, words)
    spec.config.bos_token = spec.config.decoder_start_token = words[t5.config.decoder_start_token_id]
    spec.config.eos_token = spec.config.unk_token = words[t5.config.eos_token_id]
    spec.validate()
    spec.optimize(quantization=compute_type)
    with TemporaryDirectory() as folder:
        spec.save(folder)
        threads = {"inter_threads": 1, "intra_threads": torch.get_num_threads()}
        return ctranslate2.Translator(folder, compute_type=compute_type, **threads)
