# The two commands of the README are `make demo` and `make test`; both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: demo test check docs ui gpu-check clean

# The stamp makes set-up run again only when what is to be installed has changed.
$(VENV)/stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

SEED ?= 0
PIPELINE ?= phantom_ct
OPTIONS ?=
COHORT := $(or $(DATA),out/demo/phantom_$(SEED))

demo: $(VENV)/stamp  ## check -> preprocess -> train -> infer -> evaluate, on phantoms or DATA=... PIPELINE=...
	$(if $(DATA),,$(BIN)/medseg phantom -o $(COHORT) --cases 28 --seed $(SEED))
	$(BIN)/medseg run $(PIPELINE) --data $(COHORT) -o out/demo/$(PIPELINE)_$(notdir $(COHORT)) $(OPTIONS)

# Files of tests go to two processes; torch takes one thread in each.
test: $(VENV)/stamp  ## all tests, with the coverage gate
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=95 --durations=10

check: $(VENV)/stamp  ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --no-cov tests/test_floors.py

docs: $(VENV)/stamp  ## the site, into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo out/site/index.html

ui: $(VENV)/stamp  ## the MLflow runs, on loopback
	$(BIN)/medseg ui

gpu-check: $(VENV)/stamp  ## AMP equality, 100 training steps, infer and DDP on a CUDA device
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf $(VENV) build dist out *.egg-info
