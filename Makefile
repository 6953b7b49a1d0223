# Three words for contributors: make setup, make check, make test. `make help` prints every target.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
KERNELS := .venv/.kernels

.PHONY: help setup check format test demo bench soak gpu
.DEFAULT_GOAL := help

help: ## print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(KERNELS) ## make .venv with everything in it; does nothing when it is up to date

# torch comes first and alone: anything looser lets another package choose a CUDA build of several GB.
$(READY): pyproject.toml constraints.txt clients/edge/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --editable clients/edge
	@touch $@

# Without a compiler this says so and is done: plain torch serves instead.
$(KERNELS): $(READY) $(wildcard server/rootstock_server/backends/cpu/src/*)
	$(BIN)/python -m rootstock_server.backends.cpu.build
	@touch $@

check: $(READY) ## format, lint, types, import contracts, generated tables
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(READY) ## let ruff format and sort imports
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

# Most tests wait for processes that they have started: three at a time, one thread each.
test: $(KERNELS) check ## check, then every test that CI runs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile

demo: $(KERNELS) ## the main job, end to end (ARGS=--once leaves after it instead of serving on)
	$(BIN)/rootstock demo $(ARGS)

bench: $(KERNELS) ## the short set of scenarios against peers, interleaved; writes benchmarks/results/ (ARGS=...)
	$(BIN)/rootstock bench --scenario short $(ARGS)

soak: $(KERNELS) ## bases at full shape, every method served, kills and mutated inputs at length; at most 24 GiB
	$(BIN)/pytest tests/soak/soak.py tests/soak/methods.py tests/soak/fuzzing.py tests/soak/killing.py \
		tests/registry/soak.py tests/server/engine/soak.py tests/trainer/soak.py -s $(ARGS)

gpu: ## prove and measure the GPU backend with PYTHON as it is; installs nothing
	PYTHONPATH=server:adapters_registry $(PYTHON) -m benchmarks.gpu $(ARGS)
