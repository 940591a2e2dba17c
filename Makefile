# Every target makes the virtual environment that it needs; `make restore` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
# Continuous integration gives `CONSTRAINTS=constraints.txt`: the versions that were tested. Empty: the newest.
CONSTRAINTS ?=
DEV_INSTALL := $(PIP_INSTALL) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
PYTEST := HF_HUB_OFFLINE=1 $(BIN)/python -m pytest
# One process for each core, up to four, as each takes some 2 GiB.
PYTEST_WORKERS := --numprocesses=logical --maxprocesses=4

.PHONY: restore test test-ci test-slow style quality smoke bench reproduce-mini

# Restore the eight example pictures into restored/ and show them in one grid.
restore: $(VENV)/.restore
	$(BIN)/dpmambair-restore examples -o restored --grid restored/grid.png --overwrite

# The fast tests: no GPU, no network, two cores. Who is done early takes over from the others.
test: $(VENV)/.dev
	$(PYTEST) $(PYTEST_WORKERS) --dist=worksteal -m "not slow and not gpu"

# The slow tests that matter most: the documents' lines, the wheel in an empty environment, the shipped weights at every
# door, runs that stop and go on. Continuous integration runs them after the fast ones. Those of a file share what takes
# long to make, such as an environment with the wheel, and so stay in one process.
test-ci: $(VENV)/.dev
	$(PYTEST) $(PYTEST_WORKERS) --dist=loadfile -m "ci and not gpu"

# Everything, the GPU's tests where there is one.
test-slow: $(VENV)/.dev
	$(PYTEST)

# The three training stages for 200 steps at the light size, and every ablation for two.
smoke: $(VENV)/.dev
	$(PYTEST) tests/smoke

# Rewrite the sources in the house's format.
style: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Check the format and the house rules; changes nothing.
quality: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) tests/test_house.py

# Time the selective scan.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.scan

# Print a table of the mini study, TABLE=3, 4 or 5, from its results file. FRESH=1 CLEAN=DIR trains all its networks on
# the photographs in DIR, and prints what they reach; LPIPS=FILE names the backbone that torch's hub cache lacks.
reproduce-mini: $(VENV)/.dev
	$(BIN)/python $(if $(FRESH),reproduce.py table$(TABLE) --scale mini $(if $(CLEAN),--clean "$(CLEAN)") \
	    $(if $(LPIPS),--lpips-backbone "$(LPIPS)"),-m benchmarks.tables --show mini_table$(TABLE))

# The stamps keep pip from running again until pyproject.toml changes. bin/pip is made last, so it tells a whole environment.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.restore: pyproject.toml | $(BIN)/pip
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(DEV_INSTALL) --editable ".[dev]"
	touch $(VENV)/.restore $@
