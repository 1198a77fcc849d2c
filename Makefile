# Two commands are the front door: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Those in configs/ that have stored records.
COMPARISONS := evidence judge-modes small-rounds harder weak-judge contrast-tuning

.PHONY: demo test test-fast bench-train bench-search bench-scale faults fuzz soak audit results lint docs check-skypilot install lock clean

demo: install  ## the complete method on the embedded model, two cores
	$(BIN)/psr-ray demo

test: install  ## all tests but the long ones of make faults
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12 -m "not (long or soak)"

test-fast: install  ## unit tests alone, under two minutes
	$(BIN)/python -m pytest -m "not slow"

bench-train: install  ## step-DPO against TRL, about a quarter of an hour on two cores
	$(BIN)/python -m benchmarks.train

bench-search: install  ## step search against lock-step and one by one, and by ways of judging; half an hour
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.judge_speed

bench-scale: install  ## many problems on many simulated engines, an hour and a half
	$(BIN)/python -m benchmarks.scale

faults: install  ## processes killed, hung and stopped, disks full, in each stage, networks cut; three hours
	$(BIN)/python -m benchmarks.reliability faults

fuzz: install  ## 100,000 generated inputs for everything that parses; about ten minutes
	$(BIN)/python -m benchmarks.reliability fuzz

soak: install  ## an hour of runs on three hosts with a random fault a minute
	$(BIN)/python -m benchmarks.reliability soak

audit: install  ## known vulnerabilities of what the lock pins (asks the package index and PyPI)
	$(PIP) install pip-audit
	$(BIN)/pip-audit --disable-pip --require-hashes -r requirements/cpu.lock

results: install  ## the pages of all comparisons, from the stored records of `psr-ray compare`
	for name in $(COMPARISONS); do $(BIN)/psr-ray results --config configs/$$name.yaml || exit 1; done

lint: install  ## ruff, mypy; figures in the README and docs/ against the stored results; the site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/python scripts/show_demo.py --check
	for name in $(COMPARISONS); do $(BIN)/psr-ray results --config configs/$$name.yaml --check || exit 1; done
	$(BIN)/python -m benchmarks.evidence_2 --check
	$(BIN)/python -m benchmarks.page --check
	$(BIN)/python scripts/make_grafana.py --check
	$(BIN)/python scripts/make_settings.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(VENV)/site

docs: install  ## the documentation as a site, on loopback
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

check-skypilot:  ## skypilot/run.yaml by SkyPilot itself, in an environment of its own
	$(PYTHON) -m venv $(VENV)-skypilot
	$(VENV)-skypilot/bin/python -m pip install --quiet skypilot==0.14.1
	$(VENV)-skypilot/bin/python scripts/check_skypilot.py

install: $(VENV)/.installed  ## the virtual environment, from the locks

# torch is fetched first and then checked against its lock: so a CPU build that pip knows of is taken
# before PyPI's CUDA build. Where that is the one, the last torch line adds the libraries it needs.
$(VENV)/.installed: requirements/cpu.lock requirements/torch.lock requirements/deepspeed.lock pyproject.toml
	@echo "installing into $(VENV) (a few minutes, 4 GB; 7 GB with PyPI's build of torch)"
	$(PYTHON) -m venv $(VENV)
	rm -rf $(VENV)/wheels
	$(PIP) download --no-deps --dest $(VENV)/wheels "torch==2.13.0"
	$(PIP) install --no-deps --require-hashes --no-index -f $(VENV)/wheels -r requirements/torch.lock
	rm -rf $(VENV)/wheels
	$(PIP) install --no-deps --require-hashes -r requirements/cpu.lock
	$(PIP) install "torch==2.13.0"
	$(PIP) install --no-deps --require-hashes --no-build-isolation -r requirements/deepspeed.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "import torch, transformers, ray, vllm, deepspeed, peft, datasets"
	@touch $@

lock:  ## resolve the locks again
	$(PIP) install uv
	PATH="$(BIN):$$PATH" $(BIN)/python scripts/lock.py

clean:  ## forget the environment and all runs
	rm -rf $(VENV) $(VENV)-skypilot runs
