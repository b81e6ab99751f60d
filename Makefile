# make reproduce   every study at the quick scale; ends with the path of the report
# make test        lint, types and the whole test suite
# Both set up everything that they need in .venv, on a fresh machine too.

PYTHON ?= python3
SCALE ?= quick
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help setup system reproduce test lint format types bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: .venv/.installed system

.venv/.installed: pyproject.toml constraints.txt comparisons.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Fiona needs Python 3.10 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement comparisons.txt
	touch $@

system:
	@sh scripts/system-packages.sh

reproduce: setup
	$(BIN)/fiona reproduce all --scale $(SCALE) --out runs/reproduce-$(SCALE)

test: setup lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: .venv/.installed
	$(BIN)/basedpyright --level error

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache
