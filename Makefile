# Needs Python >= 3.11, make and pip; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
DEMO := examples/smart-home
# A process a core, each with whole files in their order: the long ones come first.
PARALLEL := -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check proofs bench clean

demo: $(DEMO)/data/train.jsonl  ## train the demo and report what it gained
	$(BIN)/residency train $(DEMO)/run.yaml

test: check  ## everything that must pass before a change is merged
	$(BIN)/pytest $(PARALLEL) -m "not slow"

check: .venv/installed  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

proofs: .venv/installed  ## the long tests: kills, equivalences, malformed input
	$(BIN)/pytest -m slow

bench: $(DEMO)/data/train.jsonl  ## speed and memory beside TRL, into bench/LEADERBOARD.md
	$(BIN)/python bench/cpu_sft.py

clean:  ## removes what can be built again; runs/ stays
	rm -rf .venv $(DEMO)/data dist build .mypy_cache .pytest_cache .ruff_cache

$(DEMO)/data/train.jsonl: $(DEMO)/make_data.py $(DEMO)/home.py .venv/installed
	$(BIN)/python $<

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Residency needs Python 3.11 or newer; $(PYTHON) is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[demo,dev,server]'
	@touch $@
