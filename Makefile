# `make demo` and `make test` are all that a new Debian or Ubuntu machine needs: each sets everything up first.

BIN := .venv/bin
WORKERS ?= 2
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --quiet

.PHONY: help setup demo check format test test-fast lock clean

help:
	@echo "make demo         the whole loop in the twin, about 20 minutes on 2 cores (QUICK=1: a tour in 3 minutes)"
	@echo "make test         formatting, lint, types and all tests"
	@echo "make test-fast    the tests that are not slow"
	@echo "make check        formatting, lint and types;  make format  repairs the first two"
	@echo "make lock         resolve requirements.lock again (UPGRADE=1: to the newest versions)"
	@echo "make setup        only set up .venv;  make clean  removes it"

setup:
	@scripts/setup.sh

demo: setup
	$(BIN)/armflow demo $(if $(filter 1,$(QUICK)),--quick-tour --out runs/quick-tour) $(ARGS)

# A type checker cannot follow the import hook of an editable install: it gets a folder with a link named armflow.
.typing/armflow:
	@mkdir -p .typing && ln -s .. $@

check: setup .typing/armflow
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/basedpyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow"

lock: setup
	$(BIN)/uv pip compile pyproject.toml --output-file requirements.lock $(if $(filter 1,$(UPGRADE)),--upgrade) \
	  --extra dev --extra franka --extra realsense --extra gamepad --extra spacemouse \
	  --extra xarm --extra openarm --extra leader --extra browser \
	  --python $(BIN)/python --python-version 3.12 \
	  --universal --generate-hashes --no-annotate --no-header --no-emit-index-url --quiet

clean:
	rm -rf .venv .uv .typing build dist *.egg-info
