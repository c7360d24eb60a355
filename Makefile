# Everything happens in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= out/demo

.PHONY: setup certify test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e ".[test]"
	touch $(STAMP)

certify: $(STAMP)
	$(BIN)/neurosym certify --demo --out $(OUT)
	$(BIN)/neurosym verify $(OUT)/certificate.json

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/uv build --quiet --wheel --out-dir build/wheel .
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel && MYPYPATH=$(CURDIR)/build/wheel/site $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	  --python-executable $(CURDIR)/$(BIN)/python -p neurosym

clean:
	rm -rf $(VENV) build dist out runs
