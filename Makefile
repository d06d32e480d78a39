# Everything runs from .venv, which `make install` creates and every other target refreshes when pyproject.toml changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv and install everything from PyPI

$(STAMP): pyproject.toml proxy/tidegate_proxy/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Installing into $(VENV) (the first time takes about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar on --editable '.[dev]'
	@touch $@

demo: install  ## the spike: 500 concurrent invocations, direct, with the layer, with layer and proxy
	@$(BIN)/tidegate-spike demo

test: install  ## all tests, in parallel
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: install  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install  ## let ruff rewrite the source
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test  ## what CI runs

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) build dist reports .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
