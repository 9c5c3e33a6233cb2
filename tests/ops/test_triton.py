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
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from reg4rec.kernels.js_divergence.triton_kernel import js_divergence_kernel as kernel

tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
found = []
for arch in (80, 90):
    for logits in ("*fp32", "*bf16", "*fp16"):
        types = {name: "i64" for name in kernel.arg_names}
        types |= dict(p_ptr=logits, q_ptr=logits, js_ptr="*fp32", keep_ptr="*i1", num_classes="i32")
        types |= dict(threshold="fp64", near="fp64", HAS_THRESHOLD="constexpr", BLOCK_C="constexpr")
        source = ASTSource(kernel, types, constexprs={"HAS_THRESHOLD": True, "BLOCK_C": 1024})
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32))
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            usage = subprocess.run([tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
        numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", usage)}
        found.append({"arch": arch, "logits": logits, **numbers})
print(json.dumps(found))
"""


def test_kernels_compile_without_spills() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    for kernel in found:
        assert kernel["STACK"] == kernel["LOCAL"] == 0, kernel
        assert kernel["REG"] <= 255, kernel
