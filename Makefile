# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

install: $(VENV)/installed          ## the environment

demo: install                       ## the main job, end to end, on the embedded photographs
	$(BIN)/tailsmith demo --out runs/demo

test: install                       ## lint is `make lint`
	$(BIN)/python -m pytest -n auto --dist worksteal

test-faults: install                ## processes that are killed, hang or meet a bad disk; needs Ray, which it installs
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,ray,slurm]'
	$(BIN)/python -m pytest -m faults tests/faults

lint: install                       ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.PHONY: install demo test test-faults lint help
