# Everything a newcomer needs: `make run` starts the quick start, `make test` runs every test.
# Only Python 3.11+ and make are expected; all else goes into a virtual environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN_ARGS ?= -dev -ui -enable-script-checks -config-dir=config.d
PYTEST_ARGS ?= -n 2 --dist loadfile
CAMPAIGN_RUNS ?= 20000
RANDOM_RUNS ?= 20

.DEFAULT_GOAL := help
.PHONY: help run test check lint types layers format campaign crash-campaign catch-up-campaign \
	conformance-campaign failover-campaign membership-campaign lock-campaign fuzz-campaign \
	network-campaign random-campaign clean

# Tests by chance draw the same values each time, campaigns others each time.
%-campaign: export REGISTRY_SEED = random

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	@touch $@ $(VENV)/.run

run: $(VENV)/.run  ## start a development agent with the example services (stop it with Ctrl-C)
	$(BIN)/registry agent $(RUN_ARGS)

test: $(VENV)/.test  ## every test; those that measure time come last, one at a time
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not alone"
	$(BIN)/python -m pytest -m alone tests/cluster

check: lint types layers  ## linters, types and layer contracts

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

layers: $(VENV)/.test
	$(BIN)/lint-imports

format: $(VENV)/.test  ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

campaign: $(VENV)/.test  ## a long run of the consensus simulation (CAMPAIGN_RUNS=20000)
	$(BIN)/python -m registry.testing.campaign --runs $(CAMPAIGN_RUNS)

crash-campaign: $(VENV)/.test  ## kill -9 at 200 random moments under a write load
	REGISTRY_CRASH_ROUNDS=200 $(BIN)/python -m pytest tests/cluster/test_crash.py -s

catch-up-campaign: $(VENV)/.test  ## a follower down for 100,000 writes catches up while 64 writers go on
	REGISTRY_CATCH_UP_WRITES=100000 $(BIN)/python -m pytest tests/cluster/test_catch_up.py -s

conformance-campaign: $(VENV)/.test  ## every recorded conversation three times, alone and in a cluster
	REGISTRY_CONFORMANCE_ROUNDS=3 $(BIN)/python -m pytest tests/conformance -s

failover-campaign: $(VENV)/.test  ## kill the leader 50 times under load, restart each agent 10 times
	REGISTRY_FAILOVER_ROUNDS=50 REGISTRY_ROLLING_ROUNDS=10 \
		$(BIN)/python -m pytest tests/cluster/test_failover.py -s

membership-campaign: $(VENV)/.test  ## the long forms of the membership simulation: 200 nodes, an hour
	REGISTRY_MEMBERSHIP_LONG=1 $(BIN)/python -m pytest tests/simulation/test_membership.py -s

lock-campaign: $(VENV)/.test  ## a lock, 20 processes and servers that are killed, for a minute
	REGISTRY_LOCK_SECONDS=60 REGISTRY_LOCK_PROCESSES=20 REGISTRY_LOCK_KILLS=10 \
		$(BIN)/python -m pytest tests/cluster/test_lock.py -s

fuzz-campaign: $(VENV)/.test  ## 20,000 requests made out of the API's document, most of them nonsense
	REGISTRY_FUZZ_REQUESTS=20000 $(BIN)/python -m pytest tests/cluster/test_fuzz.py -s

network-campaign: $(VENV)/.test  ## a cluster whose network is cut, slow and lossy, for minutes
	REGISTRY_NETWORK_LONG=1 $(BIN)/python -m pytest tests/cluster/test_network.py -s

random-campaign: $(VENV)/.test  ## every test by chance with other values, RANDOM_RUNS=20 times
	for run in $$(seq $(RANDOM_RUNS)); do \
		$(BIN)/python -m pytest $(PYTEST_ARGS) -q tests/unit tests/cluster/test_bad_input.py \
			tests/cluster/test_fuzz.py || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
