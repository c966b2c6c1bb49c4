# Every target sets up what it needs on a fresh machine with Python 3.11 or newer; `make demo` and `make test` first.
BENCHES := engine fuzz learner loop media memory reliability replay round storm tools vote weights
.PHONY: help demo test check lint types fmt bench $(addprefix bench-,$(BENCHES)) bench-infra bench-gpu bench-trl results-loop \
	results-rft results-ttrl results-vote clean

export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS := 1
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false
# Containers often set this, and then every process of a run compiles all that it imports: 20 CPU seconds of it, 6 with bytecode.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.pixelis
FOLDERS := actors cluster learners memory tools
TYPED := build/typed/pixelis
# The first interpreter that runs and is new enough; `make test PYTHON=...` names another.
NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON = $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c $(NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
# A test that waits this long is stuck: its stacks are printed and the session ends.
STUCK := -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

help:
	@echo "make demo          train the small policy from scratch and write runs/demo/report.html"
	@echo "make test          all tests"
	@echo "make check         lint, types, fast tests: under a minute"
	@echo "make fmt           format the code"
	@echo "make bench         all measurements of speed and size; make bench-engine one of them ($(BENCHES))"
	@echo "make bench-gpu     Qwen3-VL-8B at its true shape on the GPU at hand; builds no environment (ARGS=--toy without a GPU)"
	@echo "make bench-infra   RFT while tools fail, three seeds (20 minutes, after make demo)"
	@echo "make bench-trl     pixelis and TRL's GRPOTrainer from one policy, in turns, three seeds (70 minutes; ARGS=--tiny to try it)"
	@echo "make results-rft   what CC-RFT and its parts are worth, 37 runs, as many at a time as cores (hours; goes on where it stopped)"
	@echo "make results-ttrl  what test-time training is worth under shifts, and each guard of it (many hours; goes on where it stopped)"
	@echo "make results-vote  what each term of the vote is worth on stored rollouts, eight streams (hours; goes on where it stopped)"
	@echo "make results-loop  the demo with its controls, three seeds (hours; goes on where it stopped)"

demo: $(STAMP)
	$(BIN)/pixelis demo

test: $(STAMP)
	$(BIN)/python -m pytest $(STUCK) --durations=15 -n 2 --dist loadfile

check: lint types
	$(BIN)/python -m pytest $(STUCK) -m "not slow and not ray" -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP) $(TYPED)
	$(BIN)/mypy

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(addprefix bench-,$(BENCHES))

$(addprefix bench-,$(filter-out tools,$(BENCHES))) bench-infra: bench-%: $(STAMP)
	$(BIN)/python bench/$*.py

bench-tools: $(STAMP)
	$(BIN)/python bench/tools.py
	$(BIN)/python bench/pool.py

# No stamp: a machine lent for its GPU has the packages, and often no way to more of them.
bench-gpu:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) bench/gpu.py $(ARGS)

# TRL has an environment of its own, with our torch and transformers.
RIVAL := runs/cache/trl-venv
bench-trl: $(STAMP) $(RIVAL)/.ready
	$(BIN)/python bench/trl/compare.py $(ARGS)

$(RIVAL)/.ready: bench/trl/requirements.txt constraints.txt overrides.txt pyproject.toml $(STAMP)
	@mkdir -p $(dir $(RIVAL))
	@test -x $(RIVAL)/bin/python || $(PYTHON) -m venv $(RIVAL)
	@uv=uv; uv --version >/dev/null 2>&1 || uv=$(BIN)/uv; \
	VIRTUAL_ENV=$(CURDIR)/$(RIVAL) $$uv pip install --constraints constraints.txt --overrides overrides.txt \
		--build-constraints constraints.txt --editable . -r bench/trl/requirements.txt
	@touch $@

results-loop: $(STAMP)
	$(BIN)/python -m pixelis.cluster.results

results-rft: $(STAMP)
	$(BIN)/python -m pixelis.cluster.results_rft

results-ttrl: $(STAMP)
	$(BIN)/python -m pixelis.cluster.results_ttrl

results-vote: $(STAMP)
	$(BIN)/python -m pixelis.cluster.results_vote

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# uv from the machine if it runs there, or else into the environment: pip needs minutes for what uv does in one.
$(STAMP): pyproject.toml constraints.txt overrides.txt
	@test -n "$(PYTHON)" || { echo "pixelis needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@set -e; uv=uv; \
	if ! uv --version >/dev/null 2>&1; then \
		uv=$(BIN)/uv; test -x $$uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv; \
	fi; \
	echo "installing pinned versions into $(VENV)"; \
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $$uv pip install --constraints constraints.txt --overrides overrides.txt \
		--build-constraints constraints.txt --editable '.[dev]'
	@touch $@

# mypy does not follow an editable install's import hook; it follows links.
$(TYPED):
	@mkdir -p $@
	@for folder in $(FOLDERS); do ln -sfn ../../../$$folder $@/$$folder; done
