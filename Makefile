# Two commands on a fresh machine do everything: `make ablations` and `make test`.
VENV ?= .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
EXTRAS ?= test

.PHONY: ablations test check bench clean setup

setup: $(VENV)/.installed

# torch first and alone, at its pinned version: a range would take a newer build with CUDA and several GB
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

ablations: setup
	$(VENV)/bin/mimbench run grid configs/ablations.yaml --seeds 1

test: setup
	$(PY) -m pytest

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest

bench: setup
	$(PY) tests/bench.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
