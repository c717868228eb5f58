# The commands of this project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tunesmith
UV_VERSION := 0.13.8
UV := $(or $(shell command -v uv),$(CACHE)/uv-$(UV_VERSION)/bin/uv)
PYTHON := .venv/bin/python
NAME ?= Tunny
CRD := charts/tunesmith/files/tunesmith.dev_finetunejobs.yaml
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Without its cache of bytecode, each process would compile anew what it imports: a third of the time of `make check`.
unexport PYTHONDONTWRITEBYTECODE
# `make e2e KUBECONFIG=...` tests on that cluster; one that happens to be in the environment is never touched.
ifeq ($(origin KUBECONFIG),command line)
export TUNESMITH_TEST_KUBECONFIG := $(abspath $(KUBECONFIG))
endif

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- for everybody ---------------------------------------------------------------------------------------------------

.PHONY: demo
demo: env toolchain ## Fine-tune a toy model on this machine and let it answer in Ollama (NAME=... sets who it says it is)
	@$(PYTHON) examples/01-quickstart/demo.py --name "$(NAME)"

.PHONY: test
test: check verify faults integration e2e ## Run every test: style, types, unit tests, and the real chain, on this machine and on a cluster

.PHONY: nightly
nightly: ## Run `make test` with every case of each test, and 10,000 histories of faults: some hours
	@$(MAKE) test N=10000 PYTEST_ARGS='-m "nightly or not nightly"'

# --- for developers --------------------------------------------------------------------------------------------------

.PHONY: env
env: .venv/.stamp ## Make .venv with everything, from the locked requirements

$(CACHE)/uv-$(UV_VERSION)/bin/uv:
	@echo "uv is not on PATH: installing uv $(UV_VERSION) into $(@D)"
	@python3 -m venv $(CACHE)/uv-$(UV_VERSION)
	@$(@D)/pip install --quiet uv==$(UV_VERSION)

.venv/.stamp: requirements/dev.txt pyproject.toml | $(UV)
	@echo "Making .venv (5 to 6 GB with PyTorch)"
	@$(UV) venv --quiet --allow-existing --python '>=3.11' .venv
	@DS_BUILD_OPS=0 $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: toolchain
toolchain: env ## Build the pinned llama.cpp into the cache; Ollama too, if this machine has none
	@$(PYTHON) hack/toolchain/llama_cpp.py
	@$(PYTHON) hack/toolchain/ollama.py --which

.PHONY: test-toolchain
test-toolchain: env ## Build what the tests use into the cache: llama.cpp, Ollama, Kubernetes, Helm, MLflow, FUSE, Prometheus
	@$(PYTHON) hack/toolchain/llama_cpp.py
	@$(PYTHON) hack/toolchain/ollama.py 0.34.1 0.34.4
	@$(PYTHON) hack/testcluster/programs.py
	@$(PYTHON) hack/toolchain/charts.py
	@$(PYTHON) hack/toolchain/mlflow_server.py
	@$(PYTHON) hack/toolchain/fuse.py
	@$(PYTHON) hack/toolchain/prometheus.py
	@$(PYTHON) hack/toolchain/grafana_sdk.py

.PHONY: images
images: test-toolchain ## Build the images of the operator, of the stages and of Ollama with buildah, for the test cluster (root, Linux)
	@$(PYTHON) hack/images/build.py

.PHONY: cluster
cluster: env ## Start a real single-node Kubernetes on this machine, in a network namespace of its own (root, Linux)
	@$(PYTHON) hack/testcluster/up.py

.PHONY: cluster-down
cluster-down: env ## Stop it; nothing of it is left but its cache of images
	@$(PYTHON) hack/testcluster/down.py

.PHONY: check
check: env ## Format, lint, types, import contracts, unit tests: a minute on two cores
	@ruff format --check --quiet .
	@ruff check --quiet .
	@mypy --no-error-summary operator images tests hack benchmarks examples
	@lint-imports --no-logo > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(PYTHON) -m pytest --quiet --numprocesses=auto tests/unit tests/controller tests/golden tests/examples

.PHONY: verify
verify: env ## Prove that the generated files are what the sources make of them
	@$(PYTHON) hack/generate.py --check

.PHONY: generate
generate: env ## Make the generated files again: CRD, API reference, golden keys
	@$(PYTHON) hack/generate.py

.PHONY: chart-docs
chart-docs: env ## Make the chart's README again, from its template and the comments of its values
	@$$($(PYTHON) hack/toolchain/charts.py helm-docs) --chart-search-root=charts --sort-values-order=file --log-level=warning

# Of some tests there may be none in a folder, which pytest tells with 5.
SOME_TESTS = $(if $(PYTEST_ARGS),$(PYTEST_ARGS) || test $$? = 5)

.PHONY: e2e
e2e: $(if $(TUNESMITH_TEST_KUBECONFIG),test-toolchain,images cluster) ## Run the tests of the real chain only, on this machine and on a cluster (KUBECONFIG=... on yours)
	@$(PYTHON) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=10 tests/preflight tests/e2e --ignore=tests/e2e/cluster $(SOME_TESTS)
	@$(PYTHON) -m pytest --durations=10 tests/e2e/cluster $(SOME_TESTS)

N ?= 300
.PHONY: faults
faults: env ## Let calls, events, clocks and operators fail in N histories (300: always the same ones; more: new ones, all night)
	@TUNESMITH_FAULT_HISTORIES=$(N) $(PYTHON) -m pytest --quiet --numprocesses=auto tests/faults $(SOME_TESTS)

.PHONY: integration
integration: test-toolchain ## Run the slower tests of parts only: a real API server (CRD, chart, rights, kubectl plugin), programs, PyTorch
	@$(PYTHON) -m pytest --numprocesses=2 --dist=loadfile --durations=10 tests/integration $(SOME_TESTS)

.PHONY: gpu
gpu: env ## Train on this machine's GPU in every way that there is; without a GPU it says so
	@$(PYTHON) -m pytest --durations=10 tests/gpu $(SOME_TESTS)

.PHONY: bench
bench: test-toolchain ## Run one benchmark: make bench BENCH=name (ratio and peer on the last line)
	@test -f "benchmarks/$(BENCH).py" || { echo "BENCH must be one of: $(basename $(notdir $(wildcard benchmarks/*.py)))"; exit 2; }
	@$(PYTHON) benchmarks/$(BENCH).py

.PHONY: sbom
sbom: images ## Write what is in the images and the chart, as CycloneDX, into dist/release (root)
	@$(PYTHON) hack/release/sbom.py

.PHONY: sign
sign: env ## Sign dist/release and images by digest: make sign KEY=... IMAGES="NAME@sha256:... ..."
	@$(PYTHON) hack/release/sign.py --key "$(KEY)" $(IMAGES)

.PHONY: format
format: env ## Format the code
	@ruff check --fix --quiet . ; ruff format .

.PHONY: lock
lock: | $(UV) ## Pin every dependency again
	@PATH="$(dir $(UV)):$$PATH" hack/lock.sh

.PHONY: clean
clean: ## Remove what was made in this folder (the cache of built tools stays)
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
