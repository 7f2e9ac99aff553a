# Two commands: `make up` runs the gateway, `make test` runs every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test lint unit soak bench bench-peers bench-pairs bench-streams false-refusals example-retrieval compiled test-compiled proto clean

up: $(VENV)/.runtime
	$(BIN)/tokenweir up --policy configs --listen 127.0.0.1:8080 --console 127.0.0.1:8090 --state .state

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.dev
	TOKENWEIR_SEEDS=20 $(BIN)/pytest tests/integration/test_money_race.py
	TOKENWEIR_PAUSE_S=30 $(BIN)/pytest tests/integration/test_shared_store.py
	TOKENWEIR_MEMORY_REQUESTS=1000000 $(BIN)/pytest tests/integration/test_memory.py
	TOKENWEIR_SIM_SEEDS=4000 TOKENWEIR_SIM_FIRST=$$(date +%s) $(BIN)/pytest -n 2 tests/sim

# The hot path compiled by mypyc, in a copy of its own: what the image runs and what is measured.
# Needs a C compiler.
COMPILED := build/compiled
SOURCES := $(shell find extproc loadtest -name '*.py' -o -name '*.lua' -o -name '*.yaml')

compiled: $(COMPILED)/.done

$(COMPILED)/.done: $(SOURCES) packaging/compile.py | $(VENV)/.dev
	rm -rf $(COMPILED)
	mkdir -p $(COMPILED)
	cp -r extproc loadtest configs proto envoy pyproject.toml compose.yaml $(COMPILED)/
	$(BIN)/python packaging/compile.py $(COMPILED)
	touch $@

# The tests of the compiled modules, against the compiled modules. Some are left out: they inherit from
# compiled classes, or put something in place of them or their methods, and neither can be done.
test-compiled: compiled
	rm -rf $(addprefix $(COMPILED)/, tests docs examples)
	cp -r tests docs examples $(COMPILED)/
	cd $(COMPILED) && ../../$(BIN)/python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider \
		--ignore tests/dialects/test_reading_streams.py --ignore tests/ledger/test_emergency.py \
		--ignore tests/integration/test_memory.py --deselect \
		tests/integration/test_reload.py::test_a_number_is_on_disk_before_its_generation_is_entered \
		tests/core tests/dialects tests/edge tests/ledger tests/values tests/wire tests/integration

bench: compiled
	cd $(COMPILED) && ../../$(BIN)/python -m loadtest.bench --results ../../loadtest/results

bench-peers: compiled
	cd $(COMPILED) && ../../$(BIN)/python -m loadtest.bench --results ../../loadtest/results --peers ferrogw,litellm,portkey

# This tree against another, in alternating slices: `make bench-pairs AGAINST=v1.2` (a git ref or a
# folder). Compiles the other tree too.
bench-pairs: compiled
	$(BIN)/python -m loadtest.pairs --tree $(COMPILED) --against $(AGAINST) --compile

# The time to the first token, translated and not, and 200 streams at 50 events per second.
bench-streams: compiled
	cd $(COMPILED) && ../../$(BIN)/python -m loadtest.translated_streams --results ../../loadtest/results

# How many affordable calls each kind of budget refuses; seconds, under a virtual clock.
false-refusals: $(VENV)/.dev
	$(BIN)/python -m loadtest.false_refusals

# One question about this repository: all of it in the prompt, against two tools behind the gateway.
example-retrieval: $(VENV)/.dev
	$(BIN)/python examples/retrieval_vs_stuffing/compare.py

proto: $(VENV)/.dev
	$(BIN)/python proto/generate.py

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) .state build dist *.egg-info
