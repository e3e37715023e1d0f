# make demo   simulate a night of calibration frames, judge it, write the report
# make test   format, lint, types, tests on both databases and in a browser, migrations: 12 minutes
# make test-rest   the slow tests and the doctests
# make test-postgresql   all tests on PostgreSQL
# make browser   the tests that drive a real browser (Debian's chromium) alone; without it they are skipped
# make docs   the documentation site in build/docs, with warnings as errors
#
# Each makes its own virtual environment in .venv, with the versions that were tested.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test test-rest test-postgresql browser docs format clean

demo: .venv/installed
	rm -rf demo
	$(BIN)/qc demo --out demo

test: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m 'not slow and not browser'
	$(BIN)/pytest -n 2 --database postgresql -m 'database and not slow and not browser and not once'
	$(BIN)/pytest -m 'browser and not slow'
	mkdir -p build && rm -f build/check.db
	QC_DATABASE=sqlite:///build/check.db $(BIN)/alembic upgrade head
	QC_DATABASE=sqlite:///build/check.db $(BIN)/alembic check

test-rest: .venv/installed-dev
	$(BIN)/pytest -n 2 -m 'slow and not browser'
	$(BIN)/pytest -n 0 --doctest-modules qc

test-postgresql: .venv/installed-dev
	$(BIN)/pytest -n 2 --database postgresql -m 'not browser and not once'

browser: .venv/installed-dev
	$(BIN)/pytest -m browser

docs: .venv/installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build demo

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
