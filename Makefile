# make quickstart   a real, small experiment from start to report
# make test         the test suite
# make lint         style and types
# make docs         the site, in site/
# Each target makes its own environment in .venv; PYTHON chooses the interpreter, VENV the folder.
# DETECTRON2=<pip requirement, folder of wheels, or checkout> also makes Detectron2 importable, so that the tests marked
# detectron2 run. A checkout is used as it lies: nothing of it is compiled, which these tests do not need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= quickstart
SITE ?= site
DETECTRON2 ?=
PYTEST_ARGS ?=

# What Detectron2's Python part imports beyond our own requirements.
DETECTRON2_NEEDS := black cloudpickle hydra-core 'omegaconf<2.4' packaging pycocotools tabulate tensorboard termcolor tqdm yacs

.PHONY: quickstart test lint docs format install detectron2 clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/scaleprior quickstart --out $(OUT)

detectron2: install
	@if ls '$(DETECTRON2)'/*.whl >/dev/null 2>&1; then \
		$(BIN)/python -m pip install --quiet '$(DETECTRON2)'/*.whl; \
	elif [ -f '$(DETECTRON2)/detectron2/__init__.py' ]; then \
		$(BIN)/python -m pip install --quiet $(DETECTRON2_NEEDS) && \
		echo '$(abspath $(DETECTRON2))' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/detectron2.pth"; \
	else \
		$(BIN)/python -m pip install --quiet --no-build-isolation '$(DETECTRON2)'; \
	fi

test: install $(if $(DETECTRON2),detectron2)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python .ci/public_types.py

# strict: a broken link, a page in no menu or a public name without a docstring fails. Fetches nothing.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(SITE)

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info
