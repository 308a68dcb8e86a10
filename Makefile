# Two commands on a fresh machine do everything: `make ablations` and `make test`.
# Without a GPU on public PyPI, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves several GB of CUDA packages.
VENV ?= .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH_INDEX ?=

.PHONY: ablations test test-quick proofs check lint bench bench-slurm clean setup setup-test

setup: $(VENV)/.installed
setup-test: $(VENV)/.installed-test

# torch first, at its pinned version: a range would take the newest build. torchvision must match torch, so from an index of
# your own both are taken
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) torch torchvision,torch)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

ablations: setup
	$(VENV)/bin/mimbench run grid configs/ablations.yaml --seeds 1

# six processes on two cores: three of them start with the tests on SLURM, which mostly wait
test: setup-test
	$(PY) -m pytest -n 6 --dist loadgroup --no-loadscope-reorder --durations 12

# while working: without the tests that take more than ten seconds, a SLURM or a browser
test-quick: setup-test
	$(PY) -m pytest -n 4 --dist loadgroup --no-loadscope-reorder -m "not slow and not slurm and not browser"

# those alone: whole grids, faults on a real SLURM, the report in a browser
proofs: setup-test
	$(PY) -m pytest -n 6 --dist loadgroup --no-loadscope-reorder -m "slow or slurm or browser"

lint: setup-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy slurm registries  # mapped into the package, where mypy does not find them

check: lint test

bench: setup-test
	$(PY) benchmarks/commands.py
	$(PY) benchmarks/speed.py
	$(PY) benchmarks/data.py

bench-slurm: setup-test
	$(PY) benchmarks/slurm.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
