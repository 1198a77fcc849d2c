# Two commands are the front door: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-fast lint install lock clean

demo: install  ## the whole method on the embedded model, two cores
	$(BIN)/psr-ray run --config configs/demo.yaml

test: install  ## all tests, the slow ones with real engines too
	$(BIN)/python -m pytest

test-fast: install  ## unit tests alone, under two minutes
	$(BIN)/python -m pytest -m "not slow"

lint: install  ## ruff (format and lint) and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: $(VENV)/.installed  ## the virtual environment, from the locks

$(VENV)/.installed: requirements/cpu.lock requirements/source.lock pyproject.toml
	@echo "installing into $(VENV) (a few minutes, about 4 GB)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --require-hashes -r requirements/cpu.lock
	$(PIP) install "torch==2.13.0"  # adds the CUDA libraries where PyPI's build was taken; else nothing
	$(PIP) install --no-deps --require-hashes --no-build-isolation -r requirements/source.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "import torch, transformers, ray, vllm, deepspeed, peft, datasets"
	@touch $@

lock:  ## resolve the locks again
	$(PIP) install uv
	PATH="$(BIN):$$PATH" $(BIN)/python scripts/lock.py

clean:  ## forget the environment and all runs
	rm -rf $(VENV) runs
