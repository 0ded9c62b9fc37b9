# Every command of the project. Each sets up what it needs itself; `make help` lists them.
#   PYTHON=python3.12 make test      another Python (3.10 to 3.13)
#   WORKERS=1 make test              one test at a time (three by default, files kept together)
#   make test ARGS='-k payload -x'   options for pytest

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LABEXTENSIONS := $(VENV)/share/jupyter/labextensions
READY := $(VENV)/.ready
CLUSTERS := $(VENV)/.clusters
ARGS ?=
WORKERS ?= 3
NODES ?= 4
MINUTES ?= 2
TRIES ?= 200
# Of what is installed a tenth is ever imported, and kept in bytecode then, whatever the image of a container says of that:
# hundreds of processes would compile it again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --no-compile
SOURCES := nb_elastic tests labextension/hatch_build.py
FRONT := nb_elastic/static/widget.js
FRONT_SOURCES := $(shell find labextension \( -name node_modules -o -name lib -o -name build \) -prune -o -type f -print)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo notebook ui test test-browser test-trust test-engines check format bench bench-ui bench-engines bench-failures orphans chaos screenshots soak matrix build clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(READY) $(FRONT) ## make .venv with the package and all that tests need

$(READY): pyproject.toml tests/constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -c 'import sys; sys.exit("nb_elastic needs Python 3.10 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	@echo "installing into $(VENV): torch takes a minute or two the first time ..."
	@$(PIP) --constraint tests/constraints.txt --editable '.[test]'
	@mkdir -p $(LABEXTENSIONS) && ln -sfn $(CURDIR)/nb_elastic/labextension $(LABEXTENSIONS)/nb-elastic
	@touch $@

$(CLUSTERS): $(READY)
	@echo "installing Ray and Dask into $(VENV) ..."
	@NB_ELASTIC_NO_FRONT_END=1 $(PIP) --constraint tests/constraints.txt --editable '.[ray,dask,clusters]'
	@touch $@

$(FRONT): $(FRONT_SOURCES) | $(READY)
	@echo "building the front end: npm takes half a minute the first time ..."
	@$(PIP) --no-deps --editable .

demo: $(READY) $(FRONT) ## run notebooks/01_first_launch.ipynb in a real kernel and print what its reader sees
	@$(BIN)/python -m tests.support.run_notebook notebooks/01_first_launch.ipynb

notebook: $(READY) $(FRONT) ## run all notebooks, and keep the outputs in the files
	@for name in notebooks/*.ipynb; do $(BIN)/python -m tests.support.run_notebook $$name --write || exit 1; done

ui: $(READY) $(FRONT) ## open the tour, notebooks/02_watching_a_run.ipynb, in JupyterLab
	@$(BIN)/jupyter lab notebooks/02_watching_a_run.ipynb $(ARGS)

# Three for two cores: many tests wait most of the time.
test: $(READY) $(FRONT) ## run all tests but those in a browser, of `make test-trust` and `make test-engines`
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore tests/browser --ignore tests/trust --ignore tests/engines $(ARGS)

test-browser: $(READY) $(FRONT) ## run the dashboard's tests in Chromium, alone and in a real JupyterLab
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/browser $(ARGS)

test-trust: $(READY) $(FRONT) ## run the programs that fail, hang, or are killed at every stage, each with its known answer
	@$(BIN)/python -m pytest -n $(NODES) --dist load tests/trust $(ARGS)

# Most of the time something is waited for that must not come sooner: a lease, a cable that stays pulled.
#   make test-engines ARGS='-m "not slow or smoke"'    what CI runs: one scenario on each cluster, all without one
test-engines: $(CLUSTERS) $(FRONT) ## run over many nodes, on real Slurm, Ray and Dask clusters of pretended machines
	@$(BIN)/python -m pytest -n $(NODES) --dist loadfile tests/engines $(ARGS)

chaos: $(READY) $(FRONT) ## random runs, faults and stops for MINUTES; each broken promise is told with its seed
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: $(READY) ## put the code into its form
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(READY) ## measure against torchrun and notebook_launcher, in one table
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-ui: $(READY) $(FRONT) ## measure the dashboard in a real browser, beside print and ipywidgets.Output
	@$(BIN)/python -m tests.benchmarks.ui $(ARGS)

bench-engines: $(CLUSTERS) $(FRONT) ## measure engines side by side on real clusters; ARGS=scale: a thousand pretended nodes
	@$(BIN)/python -m tests.benchmarks.engines $(ARGS)

bench-failures: $(READY) ## print the confusion table of failing programs, beside what plain elastic_launch says of them
	@$(BIN)/python -m tests.benchmarks.failures $(ARGS)

orphans: $(READY) ## kill the kernel TRIES times, and its helpers, at all stages of a run: what is left after five seconds
	@$(BIN)/python -m tests.trust.orphans $(TRIES) $(ARGS)

screenshots: $(READY) $(FRONT) ## draw the pictures of the README anew, from real runs in a real browser
	@$(BIN)/python -m tests.support.screenshots $(ARGS)

soak: $(READY) ## make 300 launches in one kernel and tell what grows
	@$(BIN)/python -m tests.benchmarks.soak $(ARGS)

matrix: ## run the tests on the oldest and newest Python and torch (downloads several GB)
	@bash tests/support/matrix.sh $(ARGS)

build: $(READY) ## build the wheel into dist/
	@rm -rf dist && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . && ls dist

clean: ## remove what the commands made, .venv included
	@rm -rf nb_elastic/static nb_elastic/labextension labextension/node_modules labextension/build labextension/*/lib
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
