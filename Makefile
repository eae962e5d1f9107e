# Everything from a bare checkout: an environment in .venv, an installed cuchar, then the task.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train test oldest newest peers parity gpu clean

train: $(VENV)/installed
	$(BIN)/cuchar train data/shakespeare.txt

test: $(VENV)/test
	$(BIN)/ruff format --check cuchar tests benchmarks tools data docs
	$(BIN)/ruff check cuchar tests benchmarks tools data docs
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

# cuchar in an environment of its own, with the oldest dependencies that pyproject.toml allows, or with the newest tried.
oldest newest: $(VENV)/test
	$(BIN)/python tools/clean_install.py $@

# Gradients, training steps and exported weights against PyTorch, and everyone whom `cuchar bench` times against NumPy.
parity: $(VENV)/peers
	$(BIN)/python -m pytest -q tests/peers

peers: parity
	$(BIN)/cuchar bench a --device cpu --peer eager

# Everything that needs a GPU, straight from the checkout with $(PYTHON) as it is. STAGE="tests speed" runs these alone.
gpu:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cuchar needs Python 3.11 or newer; make PYTHON=python3.11 names one")'
	@PYTHONPATH=".$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) tools/gpu.py $(if $(STAGE),--stage $(STAGE)) $(if $(OUT),--out $(OUT))

$(VENV)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cuchar needs Python 3.11 or newer; make PYTHON=python3.11 names one")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/test: $(VENV)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/peers: $(VENV)/test
	$(INSTALL) -e '.[test,peers]'
	touch $@

clean:
	rm -rf $(VENV)
