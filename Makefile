# Every target makes .venv by itself (with uv where there is one) and re-uses it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)

.PHONY: quickstart test test-all check format bench clean

quickstart: $(STAMP)  ## the whole path on synthetic images, offline: sweep, MLflow, laws, report
	$(VENV)/bin/scaling run experiments/quickstart.yaml

test: $(STAMP)  ## every test that takes seconds
	$(VENV)/bin/python -m pytest -q -m "not slow"

test-all: $(STAMP)  ## the slow ones too
	$(VENV)/bin/python -m pytest -q

check: $(STAMP)  ## format, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(STAMP)  ## ratios against a peer or a limit, printed as rows for results/benchmarks.md
	$(VENV)/bin/python -m tests.benchmarks

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(if $(UV),$(UV) venv --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))
	$(if $(UV),$(UV) pip install --python $(VENV)/bin/python,$(VENV)/bin/python -m pip install --disable-pip-version-check) -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
