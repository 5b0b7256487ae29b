# Everything a developer or a first user needs. Each target makes its environment by itself.
#
#   make demo     train a small model on real text, see the loss of every channel, save, convert to Hugging Face
#   make test     the tests; make test-thorough: further combinations of layouts, sizes and kinds of models
#   make faults   kills, failing disks and damage against checkpoints and trainer, for ten minutes; see docs/faults.md
#   make fuzz     damaged, hostile and absurd files against every command, for ten minutes (MINUTES=120: for two hours);
#                 see docs/fuzz.md
#   make spike    garbled documents and empty pages against the spike watch, and the README's picture of it
#   make slurm    jobs on a real Slurm of two nodes on this machine (make slurm-deps installs it; slurm-smoke is the
#                 part that CI runs)
#   make monitoring-deps  installs Prometheus, with which tests hold docs/monitoring; without it they are skipped
#   make check    style, types, layers, and whether docs/reference fits the code (python -m docs.generate writes it)
#   make gpu      benchmark and tests on the GPU of this machine, with the torch of PYTHON, within 24 minutes
#                 (PART=bench, tests, long or saves: within six); make gpu-wheels fetches what a machine without an index lacks
#   make gpu-dry  all of that on a pretended GPU, which computes nothing; see docs/gpu.md
#   make bench    how fast, against named peers, measured in one run
#
# Another Python: PYTHON=python3.12 make test (its environment lives beside the first one).

PYTHON ?= python3
NAME := $(notdir $(PYTHON))
VENV := .venv$(if $(filter-out python3,$(NAME)),-$(NAME))
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-thorough slurm slurm-smoke slurm-deps monitoring-deps faults fuzz spike check gpu gpu-dry gpu-wheels bench clean

demo: $(READY)
	$(BIN)/python -m data_prep.demo
	$(BIN)/harness train model_configs/tiny.yaml
	test -d .demo/exported || $(BIN)/harness convert to-hf runs/tiny/checkpoints/step_0000300 .demo/exported --sample "It was"
	$(BIN)/python -m data_prep.demo.closing runs/tiny

# Two processes, each with whole files: the tests of a file share what is made once for them.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20

test-thorough: $(READY)
	$(BIN)/python -m pytest -m thorough --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20

check: $(READY)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m docs.generate --check
	$(BIN)/shellcheck slurm/*.sbatch slurm/environment.sh tests/slurm/install.sh tests/watch/install_prometheus.sh tests/fakegpu/nvidia-smi .ci/run

# Without a Slurm on this machine the tests are skipped, and say so.
slurm: $(READY)
	$(BIN)/python -m pytest -rs -m slurm tests/slurm

slurm-smoke: $(READY)
	$(BIN)/python -m pytest -rs -m 'slurm and smoke' tests/slurm

slurm-deps:
	tests/slurm/install.sh

monitoring-deps:
	tests/watch/install_prometheus.sh

# Kills, full disks and damage against the real trainer; each trial is repeated by its seed.
faults: $(READY)
	$(BIN)/python -m benchmarks.faults --seed 1 --minutes 10
	$(BIN)/python -m pytest -m faults tests/faults

# Goes on where the last call ended; what it finds is kept in tests/fuzz/found.
MINUTES ?= 10
fuzz: $(READY)
	$(BIN)/python -m benchmarks.fuzz --seed 1 --minutes $(MINUTES) --processes 2 --state .fuzz --also-found

spike: $(READY)
	$(BIN)/python -m benchmarks.spike --plot docs/spike.png

# Not in an environment of ours: torch must fit the machine's driver, so the machine's own is taken, and left as it is.
gpu:
	$(PYTHON) tests/visit/gpu_visit.py $(PART)

gpu-dry:
	$(PYTHON) tests/visit/gpu_dry.py $(PART)

gpu-wheels:
	$(PYTHON) tests/visit/gpu_packages.py

bench: $(READY)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --experts
	$(BIN)/python -m benchmarks.experts
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.long_phase
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.blend
	$(BIN)/python -m benchmarks.tokenize
	$(BIN)/python -m benchmarks.cleaning
	$(BIN)/python -m benchmarks.conversion
	$(BIN)/python -m benchmarks.detector
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.scale

clean:
	rm -rf .venv .venv-* .demo .gpu .fuzz runs/tiny

# The environment: made once, made again when what it consists of changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"harness needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}; try PYTHON=python3.12 make …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,data,data-fast,data-clean,data-web,data-quality,convert,plot,dev]'
	touch $@
