# Each command sets up what it needs by itself, from nothing but make and Python 3.11 or newer.
# Another Python than python3:  make venv PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
START  := notebooks/00_start.ipynb

.DEFAULT_GOAL := help
.PHONY: help venv lab test demo bench drills lint clean

help:  ## say what there is (this)
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1	\2/p' Makefile

venv: $(READY)  ## make .venv with the project and its tools, at the versions of constraints.txt

lab: $(READY)  ## open JupyterLab at the first notebook (as root: with --allow-root, which Jupyter asks for)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(START)

test: $(READY)  ## run all tests
	$(BIN)/python -m pytest

demo: $(READY)  ## run the first notebook without a browser, print its last table, write build/demo.html
	$(BIN)/python -m tests.demo

bench: $(READY)  ## measure what the project promises
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt torchensemble
	$(BIN)/python -m tests.benchmarks

drills: $(READY)  ## harm ranks, guard and kernel at random moments, many times
	$(BIN)/python -m tests.drills

networks: $(READY)  ## train 200 networks drawn at random in every way, on 1 to 4 ranks, beside one process
	for ranks in 1 2 3 4; do $(BIN)/mpiexec -n $$ranks $(BIN)/python -W ignore -m tests.random_networks || exit 1; done

lint: $(READY)  ## rules, format, and the types of the engine
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what was built and cached (not .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is there only while the environment is whole: it goes before anything is changed, and comes back last.
# Without it, whatever lies in .venv is what an interrupted try left, and is made anew.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is: $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@test -e $@ || { echo "$(PYTHON) -m venv --clear $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $@
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@
