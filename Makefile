# `make demo` and `make test` set everything up on a fresh machine: Python 3.11, make, a C++ compiler.
# Tests of simulators also want libosmesa6 or EGL (apt-get install libosmesa6), and are skipped without.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Their metadata ask for a numpy older than they need.
PROCGEN := procgen2==0.10.7 gym3==0.3.3 gym==0.26.2
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests start hundreds of processes, each of which would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-slow chaos lint ruff types pytest format docs clean

demo: $(VENV)/installed
	$(BIN)/python -m ray_jobs.study configs/studies/demo.yaml

# Two processes with one thread each: most tests wait for Ray, storage or other processes, and more
# threads than cores slow all of them down. tests/conftest.py says which tests stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# A wrong line is told at once; the types are checked while the tests wait for something.
test: ruff
	$(MAKE) --no-print-directory --jobs 2 types pytest

pytest: $(VENV)/installed
	$(PYTEST)

# The inner loop: tests that start neither Ray nor a process and take no seconds (tests/fast.py).
# A test that hangs as it is skipped ends its process, which says where.
ENDS_HANGS := -o faulthandler_timeout=120 -o faulthandler_exit_on_timeout=true --max-worker-restart 1
test-fast: $(VENV)/installed
	$(PYTEST) -p tests.fast $(ENDS_HANGS)

test-slow: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,notebooks,rerun]'
	$(BIN)/python -m pytest -q -m slow --timeout 3600

# Broken input, a faulty S3, and every kind of job killed hundreds of times: hours. The settings are
# those of docs/reliability.md.
CHAOS := OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos
chaos: $(VENV)/installed
	$(CHAOS).fuzz --inputs 10000 --seed 1
	$(CHAOS).media --inputs 1000 --seed 1
	$(CHAOS).s3_faults --operations 400 --seed 2
	$(CHAOS).s3_faults --operations 400 --seed 2 --patience-s 180
	$(CHAOS).s3_faults --operations 1000 --seed 1
	$(CHAOS).s3_faults --operations 400 --seed 1 --share 0 --lies 0.3
	$(CHAOS).kills

lint: ruff types

ruff: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site: build/site/index.html.
docs: $(VENV)/installed
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(PROCGEN) || echo "Not here: tests of Procgen are skipped."
	touch $@
