# setup | check | test | test-gpu | sanitize | bench | demo: what a developer runs is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 8
SANITIZER ?= compute-sanitizer
SANITIZED := -k "head-80 or window-and-soft-cap or whatever_is_chosen or packed_linear or not_a_number or equals_stay"
RUNTIME_STAMP := $(VENV)/.runtime
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup check format test test-fast test-gpu test-gpu-sanitize sanitize bench demo docs clean

setup: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: what is installed after it finds it there.
$(RUNTIME_STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/cpu/*) | $(BIN)/python
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(STAMP): $(RUNTIME_STAMP)
	$(PIP) --editable '.[dev]'
	touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

# On a machine with a GPU, with the Python and the packages that it has: nothing is installed. Greedy tokens of every
# architecture against transformers', however the engine cuts the work, are the tests that a CPU runs as well. Most of the
# time goes to compiling kernels: with pytest-xdist there WORKERS processes share one GPU.
on_gpu = PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(1) $(PYTHON) -m pytest -p no:benchmark \
	$$($(PYTHON) -c "import xdist" 2>/dev/null && printf '%s' '-n $(WORKERS)')
test-gpu:
	$(call on_gpu,) tests/gpu tests/llm/test_greedy.py

# The kernels' tests under compute-sanitizer, which looks at every access to the device's memory: a small part, as it is
# some hundred times slower.
test-gpu-sanitize:
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(call on_gpu,$(SANITIZER) --tool memcheck --error-exitcode 1) \
		-p no:cacheprovider tests/gpu $(SANITIZED)

# The tests of the C++ kernels, on builds that stop at a bad address or undefined behaviour, and at a race of threads.
# Rates and memory given back are left out: such builds have others. Needs GCC. Address randomization is off where that is
# allowed: the thread sanitizer can't place itself with much of it.
# $(1): name of the build, $(2): sanitizers, $(3): libraries that the process has to load first
comma := ,
define sanitized
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B build/sanitize/$(1) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOCTAVO_SANITIZE=$(2) \
		-DCMAKE_CXX_COMPILER=$(CXX) -DPython_EXECUTABLE=$(abspath $(BIN))/python
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/sanitize/$(1) --parallel 2
	$$(setarch -R true 2>/dev/null && echo setarch -R) env OMP_NUM_THREADS=1 \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
		LD_PRELOAD="$(foreach library,$(3),$(shell $(CXX) -print-file-name=$(library)))" \
		$(BIN)/python tests/sanitized.py build/sanitize/$(1)/_cpu.*.so --capture=sys -k "not the_rate_of and not given_back" \
		tests/kernels tests/layers tests/attention
endef

sanitize: $(STAMP)
	$(PIP) 'nanobind>=2.4' cmake
	$(call sanitized,address,address$(comma)undefined,libasan.so libstdc++.so)
	$(call sanitized,thread,thread,libtsan.so)

docs: $(STAMP)
	$(BIN)/python docs/generate.py

bench: $(RUNTIME_STAMP)
	$(BIN)/python benchmarks/offline.py

demo: $(RUNTIME_STAMP)
	$(BIN)/python examples/quickstart.py

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
