"""Every Triton kernel compiles for sm_80 and sm_90 on a machine without a GPU, and spills no registers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

# in a separate process: the interpreter, which the other tests use, is chosen when the kernel is decorated
COMPILE = """
import itertools, json, os, re, subprocess, tempfile
import torch, triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from reg4rec.kernels.fp8_linear import triton_kernel as fp8
from reg4rec.kernels.js_divergence import triton_kernel as js
from reg4rec.kernels.mpq_quantize import triton_kernel as mpq
from reg4rec.kernels.token_cross_entropy import triton_backward as tce_grad, triton_kernel as tce

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OTHERS = dict.fromkeys(("js_ptr", "error_ptr", "loss_ptr", "lse_ptr", "share_ptr", "parts_ptr"), "*fp32")
OTHERS |= dict.fromkeys(("keep_ptr", "open_ptr", "among_ptr"), "*i1") | dict.fromkeys(("ids_ptr", "order_ptr"), "*i64")
LAST = ("stride_xe", "stride_ce", "stride_hh", "stride_wh", "stride_be", "stride_hd", "stride_wd", "stride_ak")
LAST += ("stride_im", "stride_om", "stride_lm", "stride_xd", "stride_bias")
SCALARS = {"threshold": "fp64", "near": "fp64", "relative": "fp32", "lost": "fp32", "smallest": "fp32"}


def variants(dtype):
    # float16 has the tiles of bfloat16: one of each kernel that multiplies in it
    widths, flags = ((256,), (True,)) if dtype == "fp16" else ((16, 256, 1024), (True, False))
    if dtype != "fp16":
        yield js.js_divergence_kernel, {"HAS_THRESHOLD": True, "BLOCK_C": 1024}
    for width in widths:
        for flag in flags:
            yield mpq.nearest_codes_kernel, {"HAS_ERROR": flag, **mpq.search_tiles(DTYPES[dtype], width)}
            if dtype != "fp16":
                yield mpq.decide_and_mix_kernel, {"HAS_GATE": True, "PROJECTED": flag, **mpq.mix_tiles(width)}
    for flag in flags:
        yield tce.token_cross_entropy_kernel, {"HAS_AMONG": flag, **tce.forward_tiles(DTYPES[dtype])}
        for width in {min(width, 256) for width in widths}:
            of_hidden, of_weight = tce_grad.backward_tiles(DTYPES[dtype], width)
            yield tce_grad.hidden_grad_kernel, {"HAS_AMONG": flag, **of_hidden}
            yield tce_grad.weight_grad_kernel, {"HAS_AMONG": flag, **of_weight}


def fp8_variants(dtype):
    # gradients, in fp8e5, are quantized both ways and multiplied without a bias
    for name, kind in (("fp8e4nv", tl.float8e4nv), ("fp8e5", tl.float8e5)):
        forward = name == "fp8e4nv"
        for missing, rowwise in itertools.product(("rows_ptr", "columns_ptr", None) if forward else (None,), (0, 1)):
            outputs = {one: None if one == missing else "*" + name for one in ("rows_ptr", "columns_ptr")}
            strides = {"stride_rt": 1, "stride_ld": 1} if rowwise else {}
            yield fp8.quantize_kernel, {"HIGHEST": 448.0, "DTYPE": kind, **outputs, **strides, **fp8.QUANTIZE_TILES}
        none = {"bias_ptr": None}
        for size in (64, 4096):
            tiles = fp8.product_tiles(size, size)
            a, b, d = tiles["BLOCK_A"], tiles["BLOCK_B"], tiles["BLOCK_D"]
            tensors = {"a": f"{name}[{a}, {d}]", "b": f"fp8e4nv[{b}, {d}]", "y": f"{dtype}[{a}, {b}]"}
            tensors = {one + "_desc": f"tensordesc<{tensor}>" for one, tensor in tensors.items()}
            for bias, strides in ((none, {}), ({} if forward else none, {"stride_a": 1, "stride_b": 1})):
                highest = {"A_HIGHEST": 448.0, "B_HIGHEST": 448.0}
                yield fp8.product_kernel, {**highest, **tensors, **bias, **strides, **tiles}


def compiled(kernel, dtype, arch, settings):
    # settings are constants, options of the compiler, or types where they are strings
    names = kernel.arg_names
    options = {name: value for name, value in settings.items() if name not in names}
    constants = {name: value for name, value in settings.items() if name in names and not isinstance(value, str)}
    constants |= {"INTERPRETED": False} if "INTERPRETED" in names else {}
    # as for contiguous tensors: the last stride is 1, the others and the width are multiples of 16
    constants |= {name: 1 for name in names if name in LAST}
    types = {name: "*" + dtype if name.endswith("_ptr") else "i32" for name in names}
    types |= {name: kind for name, kind in (OTHERS | SCALARS).items() if name in names}
    types |= {name: value for name, value in settings.items() if isinstance(value, str)}
    types |= {name: "constexpr" for name in constants}
    aligned = [name for name in names if name.startswith("stride") or name.endswith("_ptr") or name == "width"]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constants}
    source = ASTSource(kernel, types, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
found = []
for arch in (80, 90):
    for dtype in DTYPES:
        # fp8 products ask for sm_90
        for kernel, settings in [*variants(dtype), *(fp8_variants(dtype) if arch == 90 and dtype != "fp16" else ())]:
            binary = compiled(kernel, dtype, arch, settings)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                cubin.write(binary.asm["cubin"])
                cubin.flush()
                command = [tool, "-res-usage", cubin.name]
                usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", usage)}
            products = re.findall(r"(mma.sync|wgmma.mma_async)\\S*?\\.f32\\.(\\w+\\.\\w+)", binary.asm["ptx"])
            what = {"name": kernel.__name__, "arch": arch, "dtype": dtype, "matrix": sorted(set(products))}
            found.append({**what, **settings, **numbers, "shared": binary.metadata.shared})
print(json.dumps(found, default=str))
"""
PRODUCTS = ("nearest_codes_kernel", "token_cross_entropy_kernel", "hidden_grad_kernel", "weight_grad_kernel")
"""Kernels that multiply matrices of half precision on matrix units."""
UNITS = {80: "mma.sync", 90: "wgmma.mma_async"}
HALVES = {"bf16": "bf16.bf16", "fp16": "f16.f16"}
EIGHTS = {"fp8e4nv": "e4m3.e4m3", "fp8e5": "e5m2.e4m3"}
SHARED = {80: 163 << 10, 90: 227 << 10}


@pytest.mark.slow
def test_kernels_compile_without_spills() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {kernel["name"] for kernel in found} > {*PRODUCTS, "product_kernel"}
    for kernel in found:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
        assert kernel["REG"] <= 255, kernel
        assert kernel["shared"] <= SHARED[kernel["arch"]], kernel
        if kernel["name"] in PRODUCTS and kernel["dtype"] != "fp32":
            assert kernel["matrix"] == [[UNITS[kernel["arch"]], HALVES[kernel["dtype"]]]], kernel
        if kernel["name"] == "product_kernel":
            operands = EIGHTS[kernel["a_desc"].split("<")[1].split("[")[0]]
            assert kernel["matrix"] == [["wgmma.mma_async", operands]], kernel
