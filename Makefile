# All that a checkout needs: a Python >= 3.11 and make. Everything lands in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/peers/.installed
DEMO ?= demo-out
PYTEST := $(BIN)/python -m pytest -n 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help install demo lint test test-all bench peers fuzz audit clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r a b; do printf '%-15s%s\n' "$$a" "$$b"; done

install: $(STAMP) ## create .venv with tilekit and its tools; PYTHON=... picks the interpreter
	@echo "ready: $(BIN)/tilekit --help"

$(STAMP): pyproject.toml constraints.txt
	@found=; \
	for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        found=$$python; break; \
	    fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "tilekit needs Python 3.11 or newer with venv; python3 here is: $$(python3 -V 2>&1 || true)." \
	         "Install one (Debian: apt install python3 python3-venv) or name it: make install PYTHON=/path/to/python3" >&2; \
	    exit 2; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "creating .venv with $$($$found -V)"; \
	    "$$found" -m venv --clear .venv; \
	fi
	@echo "installing tilekit and what it needs: some minutes, 2 GB and more (torch)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## the whole job on a specimen with known truth, into demo-out
	$(BIN)/tilekit demo $(DEMO)

lint: $(STAMP) ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## lint, then all quick tests
	$(PYTEST)

test-all: lint ## the slow tests too
	$(PYTEST) -m 'not gpu'

bench: $(STAMP) $(PEERS) ## the benchmarks, an hour; NAMES="label peers" picks some, QUICK=1 is small and keeps the docs
	$(BIN)/python -m benchmarks.bench $(if $(QUICK),--quick) $(NAMES)

peers: $(PEERS) ## what the benchmarks compare with, into a folder of its own

$(PEERS): benchmarks/peers.txt $(STAMP)
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/peers -r benchmarks/peers.txt \
	    || echo "peers cannot be installed: they will be left out"
	@mkdir -p .venv/peers && touch $@

fuzz: $(STAMP) ## ten minutes of coverage-guided fuzzing of each of seven targets (atheris, of its own folder)
	$(BIN)/python -m pip install --quiet --target build/fuzz --no-deps atheris
	PYTHONPATH=build/fuzz nice $(BIN)/python benchmarks/fuzz.py all --out build/fuzz-out

audit: $(STAMP) ## known vulnerabilities of the pinned packages, by pip-audit (of its own folder) and the PyPI advisories
	$(BIN)/python -m pip install --quiet --target build/audit pip-audit
	PYTHONPATH=build/audit $(BIN)/python -m pip_audit --disable-pip --no-deps -r constraints.txt

clean: ## remove .venv, caches, builds and the demo's output
	rm -rf .venv build dist $(DEMO) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
