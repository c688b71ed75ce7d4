# Two commands: `make train` (DATASET=SAMPLE by default) and `make test`. And `make crohme`: the results on CROHME;
# `make gpu`: all that a few minutes on a GPU can tell; `make study`: the arms of results/study/arms.yaml, three seeds.
PYTHON ?= python3
DATASET ?= SAMPLE
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test crohme study gpu gpu-wheels clean

train: $(VENV)/.installed
	$(BIN)/python train_stage.py --dataset $(DATASET) $(ARGS)

# The full model on CROHME in three stages, and ink alone for about as many pictures; the scores of both, and weights to
# hand on. Stopped, it goes on where it was. A smaller budget: make crohme ARGS='--preset small --set …' INK_EPOCHS=20
INK_EPOCHS ?= 200
# The last stage of the run: with --preset small, STAGE=clean.
STAGE ?= handwritten
INK = stages=[{name: handwritten, images: ink, trains: [handwritten_encoder, decoder], losses: {label: 1}, \
	epochs: $(INK_EPOCHS), learning_rate: 5e-4, augment: true}]
resume = $(if $(wildcard checkpoints/$(1)/config.yaml),--resume)
evaluate = $(BIN)/python evaluate.py --checkpoint checkpoints/$(1)/$(if $(filter crohme-stages,$(1)),$(STAGE),handwritten)-best.safetensors --dataset CROHME \
	--split $(2) --out checkpoints/$(1)/$(2)-$(3) --beam $(3)

crohme: $(VENV)/.installed
	$(BIN)/python train_stage_ABS.py --dataset CROHME --run crohme-stages $(call resume,crohme-stages) $(ARGS)
	$(BIN)/python train_stage_ABS.py --dataset CROHME --run crohme-ink $(call resume,crohme-ink) $(ARGS) --set '$(INK)'
	$(call evaluate,crohme-stages,2014,1)
	$(call evaluate,crohme-ink,2014,1)
	$(call evaluate,crohme-ink,2014,10)
	$(call evaluate,crohme-stages,2014,10) --against checkpoints/crohme-ink/2014-10/predictions.jsonl
	$(BIN)/python -m utils.training.publish checkpoints/crohme-stages/$(STAGE)-best.safetensors

# Does the bridge carry? Twelve core hours; cut down: make study MINUTES=3 SEEDS=0 ARMS='ink bridge' JOBS=1
STUDY = $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ARMS),--arms $(ARMS)) \
	$(if $(JOBS),--jobs $(JOBS)) $(ARGS)

study: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/study.py $(STUDY)

# Tests, speed, weights and scores in so many minutes; see tests/benchmarks/gpu.py. $(PYTHON) is used as it is where it has
# torch, so no network is needed; what else it lacks comes from datasets/wheels, which `make gpu-wheels` fills beforehand,
# where there is a network: for the Python and platform of the machine with the GPU.
MINUTES ?=
WHEELS_PYTHON ?= 3.12
WHEELS = pydantic filelock jinja2 rapidfuzz hypothesis pytest tqdm safetensors
platforms = $(foreach tag,manylinux_2_28 manylinux_2_17 manylinux2014,--platform $(tag)_x86_64)

gpu:
	@if $(PYTHON) -c 'from importlib.util import find_spec; exit(find_spec("torch") is None)'; then exec $(PYTHON) tests/benchmarks/gpu.py --minutes $(or $(MINUTES),8) $(ARGS); else \
	$(MAKE) $(VENV)/.installed-dev && exec $(BIN)/python tests/benchmarks/gpu.py --minutes $(or $(MINUTES),8) $(ARGS); fi

gpu-wheels:
	$(PYTHON) -m pip download --dest datasets/wheels --only-binary=:all: --python-version $(WHEELS_PYTHON) $(platforms) \
	$(WHEELS)

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

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
