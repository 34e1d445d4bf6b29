# Everything a fresh machine with Python 3.11+ needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := $(VENV)/.bench
# Tests start many interpreters: each would compile the same code again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test campaign lint bench clean distclean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "FalconAS needs Python 3.11 or later; say which: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || { echo "==> making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "==> installing FalconAS and what its tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	@touch $@

$(BENCH): $(STAMP)
	@echo "==> installing what the benchmarks compare with"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# KEEP=1 leaves the database, the broker and the workers running.
demo: $(STAMP)
	@$(BIN)/falconas demo $(if $(KEEP),--keep)

# Three files at a time, on however many cores: most tests wait for processes. In the
# order of the folders, so that the long ones come first.
test: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not campaign" -n 3 --dist loadfile --no-loadscope-reorder

# The full counts; each part takes under 20 minutes. PART=kill runs one part.
campaign: $(STAMP)
	@$(BIN)/python -m pytest -q -s -m campaign --hypothesis-profile=dice $(if $(PART),-k $(PART))

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# The bars, in under 5 minutes; FULL=1 measures all peers and all they can. PART=models, respawn,
# memory, growth or tail measures something else, OPTIONS=--help tells what more there is.
bench: $(BENCH)
	@$(BIN)/python -m bench $(PART) $(if $(FULL),--full) $(OPTIONS)

# Stops what `make demo KEEP=1` left running, and removes generated data.
clean:
	@if [ -x $(BIN)/falconas ]; then $(BIN)/falconas demo --clean; fi
	@rm -rf .falconas build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
