"""Every Triton kernel compiles for sm_80 and sm_90 on a machine without a GPU, and spills no registers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

# in a process of its own: the interpreter, which the other tests use, is chosen when the kernel is decorated
COMPILE = """
import json, os, re, subprocess, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from reg4rec.kernels.js_divergence import triton_kernel as js
from reg4rec.kernels.mpq_quantize import triton_kernel as mpq

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OTHERS = {"js_ptr": "*fp32", "keep_ptr": "*i1", "error_ptr": "*fp32", "ids_ptr": "*i64"}
LAST = ("stride_xe", "stride_ce", "stride_hh", "stride_wh", "stride_be", "stride_hd", "stride_wd", "stride_ak")
SCALARS = {"threshold": "fp64", "near": "fp64", "relative": "fp32", "lost": "fp32", "smallest": "fp32"}


def variants(dtype):
    yield js.js_divergence_kernel, {"HAS_THRESHOLD": True, "BLOCK_C": 1024}
    for width in (16, 64, 256, 1024):
        for flag in (True, False):
            tiles = mpq.search_tiles(DTYPES[dtype], width)
            yield mpq.nearest_codes_kernel, {"HAS_ERROR": flag, **tiles}
            yield mpq.decide_and_mix_kernel, {"HAS_GATE": True, "PROJECTED": flag, **mpq.mix_tiles(width)}


def compiled(kernel, dtype, arch, settings):
    names = kernel.arg_names
    options = {name: value for name, value in settings.items() if name not in names}
    constants = {name: value for name, value in settings.items() if name in names}
    constants |= {"INTERPRETED": False} if "INTERPRETED" in names else {}
    # as for contiguous tensors: the last stride is 1, the others are multiples of 16
    constants |= {name: 1 for name in names if name in LAST}
    types = {name: "*" + dtype if name.endswith("_ptr") else "i32" for name in names}
    types |= {name: kind for name, kind in (OTHERS | SCALARS).items() if name in names}
    types |= {name: "constexpr" for name in constants}
    aligned = [name for name in names if name not in constants and name.startswith("stride") or name.endswith("_ptr")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, types, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
found = []
for arch in (80, 90):
    for dtype in DTYPES:
        for kernel, settings in variants(dtype):
            binary = compiled(kernel, dtype, arch, settings)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                cubin.write(binary.asm["cubin"])
                cubin.flush()
                command = [tool, "-res-usage", cubin.name]
                usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", usage)}
            matrix = sorted(set(re.findall(r"mma.sync|wgmma.mma_async", binary.asm["ptx"])))
            what = {"name": kernel.__name__, "arch": arch, "dtype": dtype, "matrix": matrix}
            found.append({**what, **settings, **numbers})
print(json.dumps(found))
"""
PRODUCTS = ("nearest_codes_kernel",)
"""Kernels that multiply matrices of half precision on matrix units."""


def test_kernels_compile_without_spills() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {kernel["name"] for kernel in found} > set(PRODUCTS)
    for kernel in found:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
        assert kernel["REG"] <= 255, kernel
        if kernel["name"] in PRODUCTS and kernel["dtype"] != "fp32":
            assert kernel["matrix"] == {80: ["mma.sync"], 90: ["wgmma.mma_async"]}[kernel["arch"]], kernel
