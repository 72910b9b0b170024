# Everything a newcomer types. Each verb sets up what it needs; a second time that takes a second.
#
#   make run                        set up, start, discover what is allowed (loopback), say what to type next
#   make run TARGETS=10.1.0.0/24    allow and discover that network
#   make test                       set up, then every test          make test ARGS="tests/core -k gate"
#   make lint | bench | docs | test-live | clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Inside the environment, so that they go with it.
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input
TARGETS ?=
ARGS ?=
# The long tests wait for packets, leases and heartbeats: three workers suit two cores; each starts a stack of its own. They begin first
# (tests/conftest.py): sorted by their number, as pytest-xdist would, the few that wait longest would come last.
JOBS ?= 3
SOURCES := blocks tasks flows deployments

.PHONY: help install run test lint docs bench test-live clean programs programs-test

help:
	@sed -n 's/^#   //p' Makefile

# --- set-up

programs:
	@deployments/programs.sh run "$(PYTHON)"

programs-test:
	@deployments/programs.sh test "$(PYTHON)"

$(STAMPS)/venv: | programs
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.version_info >= (3, 14))' || { \
	  echo "signalbox needs Python 3.11 to 3.13; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Choose one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) ..." >&2; "$(PYTHON)" -m venv $(VENV); }
	@mkdir -p $(STAMPS) && touch $@

# --no-deps: the file is complete, and older pips resolve `sqlalchemy[asyncio]` wrongly when hashes are required. `pip check` says
# whether it really was. Bytecode is compiled here because an import of Prefect without it takes twice as long.
$(STAMPS)/packages: constraints.txt $(STAMPS)/venv
	@echo "Installing packages (a few minutes the first time) ..." >&2
	@$(PIP) install --no-deps --require-hashes --no-compile -r constraints.txt
	@$(PIP) check
	@$(BIN)/python -m compileall -qq -j 0 $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || true
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/packages
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q $(SOURCES)
	@touch $@

install: programs $(STAMPS)/project

# --- verbs

run: install
	@$(BIN)/signalbox first-run $(TARGETS)

test: install programs-test
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m deployments.docs --check
	$(BIN)/python -m pytest -q -p no:cacheprovider -p no:xdist --ignore tasks/core/db/migrations --doctest-modules $(SOURCES)

docs: install
	@$(BIN)/python -m deployments.docs $(ARGS)

bench: install programs-test
	@$(BIN)/python -m benchmarks $(ARGS)

test-live: install
	@$(BIN)/python -m pytest tests/live $(ARGS) || { status=$$?; \
	  test $$status -eq 5 && echo "Nothing was tested: name a service first, such as SIGNALBOX_LIVE_TARGET=192.168.1.1 (docs/testing.md)." >&2; \
	  test $$status -eq 5; }

clean:
	@if test -x $(BIN)/signalbox; then $(BIN)/signalbox down || true; fi
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	@find $(SOURCES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
