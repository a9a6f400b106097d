# make quickstart   a real, small experiment from start to report
# make test         the test suite
# make lint         style
# Each target makes its own environment in .venv; PYTHON chooses the interpreter, VENV the folder.
# DETECTRON2=<pip requirement or path> also installs Detectron2, so that the tests marked detectron2 run.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= quickstart
DETECTRON2 ?=
PYTEST_ARGS ?=

.PHONY: quickstart test lint format install clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/scaleprior quickstart --out $(OUT)

test: install
	$(if $(DETECTRON2),$(BIN)/python -m pip install --quiet --no-build-isolation '$(DETECTRON2)')
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
