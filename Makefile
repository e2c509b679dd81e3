# `make demo` and `make test` need Python 3.11 or newer with venv, and nothing else; all they install is in
# .venv. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Touched when an installation is complete, so that a failed one is tried again and a done one is not.
DEMO := $(VENV)/.installed-demo
TEST := $(VENV)/.installed-test
LINT := $(VENV)/.installed-lint

.PHONY: demo test lint bench venv

demo: $(DEMO)
	$(BIN)/nemotron steps run rl/nemo_rl/rlhf -c tiny

# One thread each: the tests are many small processes, and torch would take every core for each of them.
test: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

lint: $(TEST) $(LINT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEMO)
	$(BIN)/python benchmarks/cli.py
	$(BIN)/python benchmarks/identity.py
	$(BIN)/python benchmarks/chain.py
	$(BIN)/python benchmarks/submit.py

venv: $(DEMO) $(TEST) $(LINT)

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	  echo "  next: make $(MAKECMDGOALS) PYTHON=python3.12, or wherever a newer one is"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments"; \
	  echo "  next: install its venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) 'pip>=25.1'
	$(INSTALL) -e '.[embedded]'
	$(BIN)/python -m compileall -q src
	touch $@

$(TEST): $(DEMO)
	$(INSTALL) --group test
	touch $@

$(LINT): $(DEMO)
	$(INSTALL) --group lint
	touch $@
