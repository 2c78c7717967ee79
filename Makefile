# Two commands do everything: `make demo` and `make test`. Both create .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test contract-fast contract test-slow lint golden docs bench tables readme clean

demo: $(INSTALLED)
	$(BIN)/expunge demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Cards, options, values and gradients of every plug-in: under two minutes. `make contract` runs what it leaves out but
# for the slowest, which `make test-slow` runs (tests/slow.txt).
contract-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not trains and not slow" tests/contract/test_plugins.py

contract: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" tests/contract \
		--deselect tests/contract/test_plugins.py::test_without_training

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check src tests experiments
	$(BIN)/mypy
	$(BIN)/python experiments/readme.py --check

# Runs of every kind against the figures of an earlier commit, to the bit on the same kind of processor.
golden: $(INSTALLED)
	$(BIN)/python experiments/golden.py --check

# build/site/index.html opens from the folder; a broken link or anchor fails (not with --quiet, which hides it).
docs: $(INSTALLED)
	$(BIN)/python experiments/site_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# MODELS names a folder with original and retrained; PEER a checkout of open-unlearning, PEER_PYTHON the Python it runs in.
bench: $(INSTALLED)
	$(BIN)/python experiments/bench.py
	$(if $(MODELS),$(BIN)/python experiments/peer.py --models $(MODELS) $(if $(PEER),--peer $(PEER) --peer-python $(PEER_PYTHON)),\
		@echo "MODELS= is not given, so the comparison with open-unlearning is left out.")

tables: $(INSTALLED)
	$(BIN)/python experiments/league.py
	$(BIN)/python experiments/league.py --memory
	$(BIN)/python experiments/league.py --collect
	$(BIN)/python experiments/tofu_table.py
	$(BIN)/python experiments/known.py make
	$(BIN)/python experiments/known.py audit
	$(BIN)/python experiments/known.py pairs
	$(BIN)/python experiments/known.py collect --keep
	$(BIN)/python experiments/attacks.py --phase audit
	$(BIN)/python experiments/attacks.py --phase collect
	$(BIN)/python experiments/meta.py --phase train
	$(BIN)/python experiments/meta.py --phase measure
	$(BIN)/python experiments/meta.py --phase collect
	$(BIN)/python experiments/shadows.py --keep

readme: $(INSTALLED)
	$(BIN)/python experiments/readme.py

# torch first and by its exact version, so that nothing else pulls a build with accelerator packages.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("expunge needs Python 3.11 or later; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(PIP) -e '.[test,lint,docs]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache expunge-demo build
