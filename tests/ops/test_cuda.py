"""The CUDA source: nvcc compiles it for sm_80 and sm_90, and its logic holds when it runs on the CPU, lane by lane."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.ops.cases import inputs, truth

SOURCE = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc")
COMPILER = shutil.which("g++") or shutil.which("clang++")

EMULATION = """
#include <cmath>
#include <cstring>
#define __device__
#define __global__
#define REG4REC_WARP 1
struct Index { unsigned x, y; } blockIdx, threadIdx;
static float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
template <typename T> T __shfl_xor_sync(unsigned, T x, int) { return x; }
using std::fabs;
#include "js_divergence.cuh"
extern "C" void run(const float* p, const float* q, long long n, long long c, float* js, bool* keep, double threshold) {
  for (blockIdx.x = 0; blockIdx.x * REG4REC_ROWS_PER_BLOCK < n; ++blockIdx.x)
    for (threadIdx.y = 0; threadIdx.y < REG4REC_ROWS_PER_BLOCK; ++threadIdx.y)
      js_divergence_f32(p, q, c, 1, c, 1, n, c, js, keep, threshold);
}
"""


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvcc_compiles_it_without_spills(arch: str, tmp_path: Path) -> None:
    command = [str(NVCC), "-std=c++17", f"-arch={arch}", "-cubin", "-Xptxas=-v", "-o", str(tmp_path / "js.cubin")]
    done = subprocess.run([*command, str(SOURCE / "js_divergence.cu")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for entry in ("js_divergence_f32", "js_divergence_bf16"):
        assert re.search(rf"Compiling entry function '{entry}' for '{arch}'", done.stderr)
    assert re.findall(r"(\d+) bytes spill stores", done.stderr) == ["0", "0"]


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_its_logic_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "emulation.cpp").write_text(EMULATION, encoding="utf-8")
    command = [
        str(COMPILER),
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        f"-I{SOURCE}",
        "-o",
        str(tmp_path / "emulation.so"),
    ]
    subprocess.run([*command, str(tmp_path / "emulation.cpp")], check=True)
    emulation = ctypes.CDLL(str(tmp_path / "emulation.so"))
    p, q, threshold = inputs("js_divergence", (37, 53))
    p[0, 3], p[1, 5], q[2] = -torch.inf, torch.nan, p[2]
    js_N, keep_N = torch.empty(37), torch.empty(37, dtype=torch.bool)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (p, q, js_N, keep_N)]
    sizes = [ctypes.c_longlong(37), ctypes.c_longlong(53)]
    emulation.run(*pointers[:2], *sizes, *pointers[2:], ctypes.c_double(threshold))
    exact_N, exactly_kept_N = truth("js_divergence", (p, q, threshold))
    torch.testing.assert_close(js_N.double(), exact_N, rtol=0, atol=2e-7, equal_nan=True)
    assert torch.equal(keep_N, exactly_kept_N)
