"""The CUDA kernels without a GPU: nvcc and NVRTC compile them, and their logic holds when fibers run it on the CPU."""

import contextlib
import ctypes
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reg4rec import ops
from reg4rec.kernels import cuda, dispatch, machine
from reg4rec.kernels.beam_step import native_cuda as beam_step_cuda
from reg4rec.kernels.call import by_name
from reg4rec.kernels.item_topk import native_cuda as item_topk_cuda
from tests.ops.cases import CASES, as_tuple, inputs, truth
from tests.ops.test_beam_step_cpp import random_call
from tests.ops.test_ops import largest_error

SOURCE = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc")
COMPILER = shutil.which("g++")
OPS = ("js_divergence", "beam_step", "item_topk")
VALUES = [
    pytest.param(name, sizes, dtype, id=f"{name}-{'x'.join(map(str, sizes))}-{str(dtype)[6:]}")
    for name in OPS
    for sizes in CASES[name].sizes
    for dtype in CASES[name].dtypes
]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("emulation") / "emulation.so"
    source = Path(__file__).with_name("emulation.cpp")
    command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", f"-I{SOURCE}", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.launch.restype = ctypes.c_char_p
    return loaded


@pytest.fixture
def emulated(emulator: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The backend cuda on tensors of the CPU; gives the names of the kernels that were launched."""
    launched: list[str] = []

    def launch(
        op: str, entry: str, grid: int, block: int, packed: bytes, device: torch.device, shared: int = 0
    ) -> None:
        sizes = (ctypes.c_size_t(shared), packed, ctypes.c_size_t(len(packed)))
        problem = emulator.launch(f"{op}_{entry}".encode(), grid, block, *sizes)
        assert problem is None, problem.decode()
        launched.append(f"{op}_{entry}")

    usual = dispatch.backend_problem
    monkeypatch.setattr(cuda, "launch", launch)
    monkeypatch.setattr(dispatch, "backend_problem", lambda b, *rest: None if b == "cuda" else usual(b, *rest))
    with ops.use_backend("cuda"):
        yield launched


def eager(name: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    with ops.use_backend("eager"):
        return as_tuple(getattr(ops, name)(*args))


def assert_as_defined(name: str, args: tuple[Any, ...]) -> None:
    for one, other in zip(getattr(ops, name)(*args), eager(name, args), strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "sizes", "dtype"), VALUES)
def test_values(name: str, sizes: tuple[int, ...], dtype: torch.dtype, emulated: list[str]) -> None:
    args = inputs(name, sizes, dtype)
    found, plain, right = as_tuple(getattr(ops, name)(*args)), eager(name, args), truth(name, args)
    for one, other, exact in zip(found, plain, right, strict=True):
        if not exact.is_floating_point():
            assert torch.equal(one, exact)
            continue
        largest = max([0.1, *exact[exact.isfinite()].abs().tolist()])
        assert largest_error(one, exact) <= 2 * largest_error(other, exact) + torch.finfo(one.dtype).eps * largest


@pytest.mark.parametrize("name", OPS)
def test_strided_inputs_give_the_same(name: str, emulated: list[str]) -> None:
    args = inputs(name, CASES[name].sizes[2])
    strided = tuple(torch.stack([a, a], -1)[..., 0] if isinstance(a, Tensor) else a for a in args)
    for one, other in zip(getattr(ops, name)(*strided), getattr(ops, name)(*args), strict=True):
        assert torch.equal(one, other)


def test_divergences_of_rows_that_are_no_numbers(emulated: list[str]) -> None:
    p, q, threshold = inputs("js_divergence", (37, 53))
    p[0, 3], p[1, 5], q[2] = -torch.inf, torch.nan, p[2]
    assert_as_defined("js_divergence", (p, q, threshold))


def test_rows_near_the_threshold_are_decided_in_fp64(emulated: list[str]) -> None:
    p, q, _ = inputs("js_divergence", (9, 31))
    for row, exact in enumerate(truth("js_divergence", (p, q, 0.0))[0].tolist()):
        assert ops.js_divergence(p, q, exact + 1e-12)[1][row]
        assert not ops.js_divergence(p, q, exact - 1e-12)[1][row]


@pytest.mark.parametrize("blocks", [(32, 32), (128, 256)], ids=str)
def test_random_steps_are_answered_as_defined(
    blocks: tuple[int, int], emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_step_cuda, "_PATH_BLOCK", blocks[0])
    monkeypatch.setattr(beam_step_cuda, "_USER_BLOCK", blocks[1])
    for seed in range(400 if blocks[0] == 32 else 40):
        assert_as_defined("beam_step", random_call(seed))


@pytest.mark.parametrize("sizes", [(2, 24, 4, 256, 3000), (1, 3, 32, 4096, 500), (1, 50, 4, 100, 2000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_larger_steps_are_answered_as_defined(sizes: tuple[int, ...], dtype: torch.dtype, emulated: list[str]) -> None:
    logits_BPMK, scores_BP, tokens_BPM, js_BP, *rest = inputs("beam_step", sizes, dtype)
    assert_as_defined("beam_step", (logits_BPMK, scores_BP, tokens_BPM, js_BP, *rest))
    roots = (logits_BPMK[:, :1], scores_BP[:, :1], torch.full_like(tokens_BPM[:, :1], -1), None)
    assert_as_defined("beam_step", (*roots, *rest))


def test_near_ties_are_decided_in_fp64(emulated: list[str]) -> None:
    logits_BPMK = 0.5 + 2.0**-24 * torch.arange(64).view(1, 1, 1, 64)
    index = ops.TokenIndex.build(torch.arange(64)[:, None], 64)
    token_BP = ops.beam_step(logits_BPMK, torch.zeros(1, 1), torch.full((1, 1, 1), -1), None, index, 64, 0)[1]
    assert token_BP[0].tolist() == list(range(63, -1, -1))


def test_the_first_of_equally_divergent_paths_is_kept(emulated: list[str]) -> None:
    js_BP = torch.tensor([[math.nan, math.inf, math.nan], [0.4, 0.3, 0.3]])
    scores_BP = torch.tensor([[-1.0, 0, 0], [0, -1, 0]])
    paths = (torch.zeros(2, 3, 2, 4), scores_BP, torch.full((2, 3, 2), -1), js_BP)
    args = (*paths, ops.TokenIndex.build(torch.arange(4).repeat(2, 1).T, 4), 3, 0, 0.1)
    assert_as_defined("beam_step", args)
    parent_BP, *_, fallback_B = ops.beam_step(*args)
    assert parent_BP.tolist() == [[0] * 3, [1] * 3]
    assert fallback_B.all()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("path", [(-1, -1, -1), (-1, -1, 3)], ids=["root", "one token"])
def test_a_user_who_excludes_all_items_of_a_token(path: tuple[int, ...], pairs: bool, emulated: list[str]) -> None:
    codes_IM = torch.randint(5, (300, 3))
    exclude_BX = (codes_IM[:, 1] == 2).nonzero().T.contiguous()
    args = (torch.randn(1, 1, 3, 5), torch.zeros(1, 1), torch.tensor(path).view(1, 1, 3), None)
    index = ops.TokenIndex.build(codes_IM, 5, pairs=pairs)
    assert_as_defined("beam_step", (*args, index, 15, 0, None, exclude_BX))
    assert 5 + 2 not in ops.beam_step(*args, index, 15, 0, None, exclude_BX)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "sizes", [(1, 4, 64, 3001, 20), (6, 1, 7, 2500, 3), (5, 3, 31, 700, 50), (2, 4, 4096, 500, 499)]
)
def test_items_have_the_bytes_of_the_definition(
    sizes: tuple[int, ...], dtype: torch.dtype, emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_topk_cuda, "_SMALLEST_RANGE", 256)
    args = inputs("item_topk", sizes, dtype)
    assert_item_bytes(*args)
    assert emulated == ["item_topk_direct" if sizes[2] == 4096 else "item_topk_tables", "item_topk_merge"]


def assert_item_bytes(*args: Any) -> None:
    (scores_BN, items_BN), (expected_BN, order_BN) = ops.item_topk(*args), eager("item_topk", args)
    assert torch.equal(scores_BN.view(torch.int32), expected_BN.view(torch.int32))
    assert torch.equal(items_BN, order_BN)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_items_of_every_integer_and_any_strides(dtype: torch.dtype, emulated: list[str]) -> None:
    log_probs_BMK, ids_IM, k, exclude_BX = inputs("item_topk", (5, 3, 31, 700, 20))
    log_probs_BMK = log_probs_BMK.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert_item_bytes(log_probs_BMK, ids_IM.T.contiguous().T.to(dtype), k, exclude_BX.to(dtype)[:, ::2])
    assert_item_bytes(log_probs_BMK, ids_IM, k, None)


def test_items_with_ties_and_scores_that_are_no_numbers(emulated: list[str]) -> None:
    log_probs_BMK, ids_IM, k, exclude_BX = inputs("item_topk", (3, 2, 4, 600, 40))
    log_probs_BMK = log_probs_BMK.round()
    log_probs_BMK[0] = -0.0
    log_probs_BMK[1, 0] = torch.tensor([-math.inf, math.nan, math.inf, -1.0])
    log_probs_BMK[2, 0] = torch.tensor([-math.inf, math.nan, -math.inf, math.nan])
    assert_item_bytes(log_probs_BMK, ids_IM, k, exclude_BX)


def test_items_in_ascending_order_of_score(emulated: list[str]) -> None:
    """Every item beats those before it, and there are more seen items than bits of the filter."""
    scores_BMI, seen_BX = torch.randn(1, 1, 5003).sort(-1).values, torch.randint(-1, 5003, (1, 1500))
    for k in (0, 1, 100):
        assert_item_bytes(scores_BMI, torch.arange(5003)[:, None], k, seen_BX)
        assert_item_bytes(scores_BMI, torch.arange(5003)[:, None], k, None)


def test_objections_name_the_reason(emulated: list[str]) -> None:
    def step(books: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        index = ops.TokenIndex.build(torch.zeros(4, books), 3)
        tokens_BPM = torch.full((1, 40, books), -1)
        return torch.zeros(1, 40, books, 3, dtype=dtype), torch.zeros(1, 40), tokens_BPM, None, index, width, 0

    with pytest.raises(ops.BackendError, match="float32 and bfloat16 logits"):
        ops.beam_step(*step(2, 2, torch.float16))
    with pytest.raises(ops.BackendError, match="32 codebooks at most, these are 33"):
        ops.beam_step(*step(33, 2))
    with pytest.raises(ops.BackendError, match="bytes of shared memory for 100 children"):
        ops.beam_step(*step(32, 100))
    with pytest.raises(ops.BackendError, match="bytes of shared memory for 9000 items"):
        ops.item_topk(torch.zeros(1, 1, 2), torch.zeros(4, 1, dtype=torch.int64), 9000)


@pytest.mark.parametrize(
    ("native", "said"), [(None, "built without CUDA, and cupy"), ("no compiler", "no compiler, and")]
)
def test_the_machine_says_what_it_lacks(native: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native_problem", lambda: native)
    monkeypatch.setattr(machine, "native_has_cuda", lambda: False)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    problem = str(machine._cuda_problem.__wrapped__())
    assert said in problem
    assert "cupy, which could compile the kernels, is not installed (extra cuda12 or cuda13)" in problem
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name)
    assert machine._cuda_problem.__wrapped__() is None


class Kernel:
    """What CuPy gives for a kernel."""

    name: str
    calls: list[Any]
    max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid: tuple, block: tuple, arguments: tuple, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.calls.append((self.name, grid, block, [(one.size, one.tobytes()) for one in arguments], shared_mem))


def test_cupy_launches_what_the_extension_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def get_function(name: str) -> Kernel:
        kernel = Kernel()
        kernel.name, kernel.calls = name, calls
        return kernel

    context = SimpleNamespace(Device=contextlib.nullcontext, ExternalStream=contextlib.nullcontext)
    cupy = SimpleNamespace(cuda=context, RawModule=lambda code, options: SimpleNamespace(get_function=get_function))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "native_has_cuda", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    cuda._compiled.cache_clear()
    cuda.launch("item_topk", "merge", 3, 128, b"struct", torch.device("cuda", 0), 64)
    cuda.launch("item_topk", "merge", 0, 128, b"struct", torch.device("cuda", 0), 64)
    cuda.launch("item_topk", "tables", 3, 128, b"struct", torch.device("cuda", 0), 100_000)
    cuda._compiled.cache_clear()
    same = (3,), (128,), [(1, b"struct")]
    assert calls == [("item_topk_merge", *same, 64), ("item_topk_tables", *same, 100_000)]


def test_a_launch_may_have_all_shared_memory_of_the_gpu(emulated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(shared_memory_per_block_optin=227 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert cuda.shared_bytes.__wrapped__(torch.device("cuda", 0)) == 223 << 10
    logits_BPMK, scores_BP, tokens_BPM, js_BP, index, _, _, *rest = inputs("beam_step", (1, 300, 4, 64, 3000))
    wide = (logits_BPMK, scores_BP, tokens_BPM, js_BP, index, 300, 4, *rest)  # as for a list of 200 items
    with pytest.raises(ops.BackendError, match="bytes of shared memory for 304 children, there are 45056"):
        ops.beam_step(*wide)
    monkeypatch.setattr(cuda, "shared_bytes", lambda device: 223 << 10)
    assert_as_defined("beam_step", wide)
    assert set(emulated) == {"beam_step_path_f32", "beam_step_user"}


@pytest.mark.skipif(machine.native_problem() is not None, reason="no extension")
@pytest.mark.parametrize("op", OPS)
def test_the_source_has_the_fields_of_the_extension(op: str) -> None:
    from reg4rec import _C

    assert cuda.fields(op) == _C.fields(op)


def test_a_struct_takes_the_strides_of_its_views() -> None:
    fields = [("x", "const float*"), ("y", "View2<const float>"), ("z", "RawView2"), ("n", "int64_t"), ("t", "double")]
    pack, x, y = by_name("op", fields, bytes), torch.zeros(1), torch.zeros(3, 5, 7, dtype=torch.bfloat16)
    for z, expected in ((y, [y.data_ptr(), 2, 35, 7]), (None, [0] * 4)):
        words = torch.frombuffer(bytearray(pack(t=0.5, n=True, x=x, y=y, z=z)), dtype=torch.int64)
        assert words[:-1].tolist() == [x.data_ptr(), y.data_ptr(), 35, 7, *expected, 1]
        assert words[-1:].view(torch.float64).item() == 0.5


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvcc_compiles_them_without_spills(arch: str, tmp_path: Path) -> None:
    command = [str(NVCC), "-std=c++17", f"-arch={arch}", "-cubin", "-Xptxas=-v", "-o", str(tmp_path / "all.cubin")]
    done = subprocess.run([*command, str(SOURCE / "launch.cu")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    compiled = re.findall(rf"Compiling entry function '(\w+)' for '{arch}'", done.stderr)
    assert {kernel.rpartition("_")[0] for kernel in compiled} >= {"js_divergence", "beam_step", "item_topk"}
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert memory == [("0", "0", "0")] * len(compiled)
    assert all(int(size) <= 4096 for size in re.findall(r"(\d+) bytes smem", done.stderr))


def find_nvrtc() -> ctypes.CDLL | None:
    """The compiler that CuPy uses: of a package (torch with CUDA and cupy[ctk] bring one), else of the system."""
    packages = find_spec("nvidia")
    folders = [Path(folder) for folder in packages.submodule_search_locations or ()] if packages else []
    for name in [*(str(path) for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*")), "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("op", OPS)
def test_nvrtc_compiles_them(op: str) -> None:
    nvrtc, program = find_nvrtc(), ctypes.c_void_p()
    if nvrtc is None:
        pytest.skip("needs NVRTC")
    code = cuda.source(op).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, op.encode(), 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(b"-std=c++17", b"--gpu-architecture=compute_80")
    failed, size = nvrtc.nvrtcCompileProgram(program, len(options), options), ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    assert not log.value


@pytest.mark.parametrize("op", OPS)
def test_device_code_has_no_host_headers(op: str) -> None:
    assert "#include" not in cuda.source(op)
    assert f'extern "C" __global__ void {op}_' in cuda.source(op)
