# `make help` lists the targets. PYTHON chooses the interpreter: make setup PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.equipoise-installed
DOCS_STAMP := .venv/.equipoise-docs-installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test test-fast check docs bench dashboard clean
# Empty counts as unset: without byte code each worker compiles every test's assertions again, ten seconds of it.
test test-fast check: export PYTHONDONTWRITEBYTECODE :=

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

train: setup ## train the default; more arguments: make train ARGS="preset=debug seed=2"
	$(BIN)/python -m trainer.run $(ARGS)

test: setup ## run all tests, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-fast: setup ## run what matters most, within a minute
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not browser" tests/unit $(ARGS)

check: setup ## ruff, mypy, import contracts and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

docs: $(DOCS_STAMP) ## build the site into build/docs; a warning is an error
	$(BIN)/python -m scripts.list_files --check
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto docs build/docs
	@echo "open build/docs/index.html"

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

bench: setup ## measure speed against the floor of the mathematics
	$(BIN)/python -m scripts.benchmark $(ARGS)

dashboard: setup ## TensorBoard over runs/
	$(BIN)/python -m scripts.dashboard $(ARGS)

clean: ## remove caches and build output; keeps .venv and runs/
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find conf envs trainer scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
