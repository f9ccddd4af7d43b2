# Two commands do everything: `make run` and `make test`. `make bench` writes the records in benchmarks/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= digits

.PHONY: run test bench clean help

help:
	@echo "make run    install into .venv and run the chain on the digits recipe (RECIPE=name for another)"
	@echo "make test   install with the test extra; format, lint, types, layers, tests, doctests"
	@echo "make bench  measure what the README states and write benchmarks/records (most of a day)"
	@echo "make clean  remove .venv and caches (never runs/)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: an install happens again only when what it depends on has changed.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tune]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	@touch $@ $(VENV)/.run $(VENV)/.test

run: $(VENV)/.run
	$(BIN)/dimwise run $(RECIPE)

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
