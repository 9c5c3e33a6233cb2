# `make demo` and `make test` set up everything they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export REG4REC_DATA ?= $(wildcard ../shared/data)

.PHONY: setup demo test test-gpu bench lint format clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt setup.py CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/reg4rec demo --out runs/demo

test: setup
	$(BIN)/python -m pytest

# On a machine with a GPU: uses that machine's own torch, triton and cupy, and installs nothing from an index.
GPU_TESTS := tests/ops/test_ops.py
test-gpu:
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(PYTHON) -m pytest -m gpu $(GPU_TESTS)
	compute-sanitizer --error-exitcode 1 $(PYTHON) -m pytest -q -m gpu -k cuda $(GPU_TESTS)

bench: setup
	$(BIN)/python -m pytest bench

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*' 'tests/*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*' 'tests/*.cpp' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info reg4rec/_C*.so reg4rec/_C.missing.txt .pytest_cache .mypy_cache .ruff_cache
