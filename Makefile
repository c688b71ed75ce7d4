# Two commands: `make train` (DATASET=SAMPLE by default) and `make test`.
PYTHON ?= python3
DATASET ?= SAMPLE
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test clean

train: $(VENV)/.installed
	$(BIN)/python train_stage.py --dataset $(DATASET) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV)
