# On a fresh machine with Python 3.11 or newer and a C++ compiler: make demo, make test, or make install alone.
# Everything lives in .venv and out/ beside this file.

PYTHON ?= python3
TORCH ?= torch==2.13.0
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo test test-slow bench gpu-check lint clean

BIN := .venv/bin
STAMP := .venv/.manvatar-installed
NATIVE := $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h)

install: $(STAMP)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "manvatar: error: $(PYTHON) is older than Python 3.11; name a newer one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "manvatar: error: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }

# torch comes first because the native libraries are compiled against its headers. One that is there already is kept: to
# choose its build (CPU or a CUDA version), make .venv and install it there before this.
$(STAMP): setup.py pyproject.toml $(NATIVE) | .venv/bin/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install '$(TORCH)'
	$(BIN)/pip install -q 'setuptools>=77' wheel
	$(BIN)/pip install -q --no-build-isolation -e '.[test]'
	@touch $@

# make demo: an avatar of the synthetic head; make demo VIDEO=my.mp4: of one's own video. Results in out/demo/.
demo: $(STAMP)
ifdef VIDEO
	$(BIN)/python -m manvatar.fit '$(VIDEO)' -o out/demo
else
	$(BIN)/python -m manvatar.demo -o out/demo/clip.mp4
	$(BIN)/python -m manvatar.fit out/demo/clip.mp4 -o out/demo
endif

test: $(STAMP)
	$(BIN)/python -m pytest -q

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

bench: $(STAMP)
	$(BIN)/python -m manvatar.benchmark --json-out out/benchmark.json

# On a machine with a GPU: everything that others cannot check. Results in out/gpu-check/.
gpu-check: $(STAMP)
	PYTHON=$(BIN)/python tools/gpu_check.sh out/gpu-check

lint: $(STAMP)
	$(BIN)/ruff check .

clean:
	rm -rf build out *.egg-info manvatar/ops/*.so $(STAMP)
