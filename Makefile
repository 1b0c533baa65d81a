# Everything happens in a virtual environment under this checkout; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without bytecode every import is several times slower.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DAGSTER_DISABLE_TELEMETRY := 1
export DBT_SEND_ANONYMOUS_USAGE_STATS := false

.PHONY: demo ui change reset test lint benchmarks screenshots clean

demo: $(VENV)/.demo       ## from nothing to a finished sequence, and its result
	@$(BIN)/python -m seqsync_dagster.demo run

ui: $(VENV)/.demo         ## Dagster's web UI and the emulated Salesforce, until Ctrl-C
	@$(BIN)/python -m seqsync_dagster.demo ui

change: $(VENV)/.demo     ## change some of the demo's source rows, and say which
	@$(BIN)/python -m seqsync_dagster.demo change

reset: $(VENV)/.demo      ## forget the demo: warehouse, ledgers, emulated Salesforce, Dagster's history
	@$(BIN)/python -m seqsync_dagster.demo reset

test: $(VENV)/.dev        ## the whole suite
	@$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.dev        ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

benchmarks: $(VENV)/.dev  ## ratios against a baseline of the same run; minutes
	@$(BIN)/python -m seqsync_dagster_tests.benchmarks.plan
	@$(BIN)/python -m seqsync_dagster_tests.benchmarks.first_load
	@$(BIN)/python -m seqsync_dagster_tests.benchmarks.changes
	@$(BIN)/python -m seqsync_dagster_tests.benchmarks.load
	@$(BIN)/python -m seqsync_dagster_tests.benchmarks.executors

screenshots: $(VENV)/.dev ## README's pictures, taken anew in a real browser (needs chromium)
	@$(BIN)/python -m seqsync_dagster_tests.e2e.screenshots

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (once; a few minutes on a slow line) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --compile -c constraints.txt -e '.[duckdb,emulator]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (once; a few minutes on a slow line) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --compile -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

clean: reset
	@rm -rf $(VENV) build *.egg-info
