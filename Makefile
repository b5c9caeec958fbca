# `make help` lists the targets. PYTHON may name another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATASET ?= synthetic
SUITE ?= default
ARGS ?=
SELECTION := -n auto --dist loadscope -m "not slow and not gpu and not cluster"
KINDS := multiclass multilabel
GENERATED := data/synthetic.h5 $(patsubst %,data/synthetic-%.h5,$(KINDS) lag words) \
	data/synthetic_dialogues.h5 data/synthetic_clips.h5
CHECKS := ci ci-missing ci-classes ci-labels ci-words ci-dialogues ci-clips ci-mosi ci-ravdess

.DEFAULT_GOAL := help
.PHONY: help setup data bench check leaderboard test test-portable test-slow test-gpu test-cluster injections lint format speed scale clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  e.g. make bench MODEL=mmim DATASET=ravdess; further arguments in ARGS=\"--seeds 1111\""

# Asked of the interpreter that is to be used before anything is made, in words that every Python understands.
NEW_ENOUGH = import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mmbench needs Python 3.11 or newer, and " + \
	sys.executable + " is " + sys.version.split()[0] + ". $(1)")

# What an earlier set-up left unfinished is made anew. An environment that was there before is kept and completed.
$(BIN)/.done: pyproject.toml constraints.txt
	@if test -e $(VENV)/.unfinished; then rm -rf $(VENV); fi
	@if test -e $(BIN)/python; then $(BIN)/python -c '$(call NEW_ENOUGH,Remove $(VENV): make clean)'; \
		else $(PYTHON) -c '$(call NEW_ENOUGH,Name another: make setup PYTHON=python3.11)'; fi
	@if ! test -e $(BIN)/python; then mkdir -p $(VENV) && touch $(VENV)/.unfinished && $(PYTHON) -m venv $(VENV); fi
	@$(BIN)/pip install --quiet --upgrade --constraint constraints.txt --editable '.[dev]' || \
		{ if test -e $(VENV)/.unfinished; then rm -rf $(VENV); fi; exit 1; }
	@rm -f $(VENV)/.unfinished && touch $@

setup: $(BIN)/.done ## make .venv with everything in it

data/synthetic.h5: | $(BIN)/.done
	$(BIN)/mmbench data synth --out $@

$(patsubst %,data/synthetic-%.h5,$(KINDS)): data/synthetic-%.h5: | $(BIN)/.done
	$(BIN)/mmbench data synth --kind $* --out $@

data/synthetic-%.h5: | $(BIN)/.done
	$(BIN)/mmbench data synth $* --out $@

data/synthetic_%.h5: | $(BIN)/.done
	$(BIN)/mmbench data synth $* --out $@

data: $(GENERATED) ## make the generated data sets

bench: $(BIN)/.done $(filter data/$(subst /,-,$(DATASET)).h5,$(GENERATED)) ## train MODEL (default: all that fit) on DATASET and compare
	$(BIN)/mmbench run --dataset $(DATASET) --suite $(SUITE) $(if $(MODEL),--method $(MODEL)) $(ARGS)

check: $(BIN)/.done $(GENERATED) ## compare small runs of all methods with the committed numbers, verify the published records
	$(BIN)/mmbench check --suite $(CHECKS) $(ARGS)
	$(BIN)/mmbench verify

leaderboard: $(BIN)/.done ## make the tables of your runs, the published rows merged in
	$(BIN)/mmbench report

test: $(BIN)/.done ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SELECTION) $(ARGS)

test-portable: $(BIN)/.done ## run the tests as on other processors: other instructions, one and two threads
	$(BIN)/python -m tests.portable $(SELECTION) $(ARGS)

test-slow: $(BIN)/.done ## run the tests that take long
	$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(BIN)/.done ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-cluster: $(BIN)/.done ## run the tests on a small SLURM and on Ray (apt-get install slurm-wlm munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile -m cluster tests/cluster tests/runner $(ARGS)

injections: $(BIN)/.done $(GENERATED) ## put known bugs in, one at a time, and see who notices (hours; can be continued)
	$(BIN)/python -m tests.injections $(ARGS)

lint: $(BIN)/.done ## check style, types, which floor imports which, and that everything is used
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.unused

format: $(BIN)/.done ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

speed: $(BIN)/.done ## measure speed and memory
	$(BIN)/python -m benchmarks.speed $(ARGS)

scale: $(BIN)/.done ## measure what more devices and workers buy
	$(BIN)/python -m benchmarks.scale $(ARGS)

clean: ## remove what can be made again (not data/, not the checkpoints in runs/)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info

distclean: clean ## remove the checkpoints and logs in runs/ as well (not data/, not leaderboard/)
	@echo "removing runs/ with $$(find runs -name '*.ckpt' 2>/dev/null | wc -l) checkpoints"
	rm -rf runs wandb lightning_logs
