# make setup   an environment in .venv, from nothing; does nothing when it is up to date
# make demo    real DFT trajectories, then train and score ATOM on the shipped mini data set
# make test    the default tests;  make test-slow: those that take minutes as well
# make lint    ruff, pyright and the import contracts
# make help    this list
# make docs    the generated tables of docs/ (docs/generate.py), the site in site/, the leaderboard in site/board/

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The first target, so that `make` alone changes nothing.
help:
	@sed -n 's/^# \(make \)/\1/p' Makefile

.PHONY: help setup demo test test-slow test-e3nn06 lint docs clean

setup: $(VENV)/.ready

# torch goes in first and by its exact version: any other request may bring gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) -e '.[test]'
	touch $@

demo: setup
	$(BIN)/tg80 generate --molecule-list examples/smiles.txt --recipe examples/demo.toml --out demo/data
	$(BIN)/tg80 validate demo/data
	$(BIN)/tg80 info demo/data
	$(BIN)/atom-bench run --fold 2 --preset mini --budget-cpu-minutes 2.5 --out demo/results
	$(BIN)/atom-bench leaderboard demo/results

# Two processes, a file each at a time: the tests themselves are single-threaded.
test: setup
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		echo 'No chromium and chromedriver here: the tests of the leaderboard page in a browser are skipped.'
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=10

test-slow: setup
	$(BIN)/python -m pytest --slow --timeout 3600

# The model room alone, against the other e3nn it promises to work with.
test-e3nn06: .venv-e3nn06/.ready
	.venv-e3nn06/bin/python -m pytest tests/atom -p no:cacheprovider

.venv-e3nn06/.ready: constraints.txt
	test -x .venv-e3nn06/bin/python || $(PYTHON) -m venv .venv-e3nn06
	.venv-e3nn06/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	.venv-e3nn06/bin/python -m pip install --quiet 'e3nn>=0.6,<0.7' safetensors pydantic numpy pytest pytest-timeout hypothesis
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: setup
	$(PIP) -e '.[docs]'
	$(BIN)/python -m docs.generate
	$(BIN)/mkdocs build --strict
	$(BIN)/atom-bench leaderboard benchmarks/results --html site/board

clean:
	rm -rf .venv .venv-e3nn06 build dist site *.egg-info
