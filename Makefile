# The two commands of the README are `make demo` and `make test`; both install what is missing.
.PHONY: help install demo test slow coverage soak lint words docs audit clean
.DEFAULT_GOAL := help
# Absolute, so that what runs in a work dir of its own still finds it; first in PATH for the shell scripts.
VENV := $(CURDIR)/.venv/bin
export PATH := $(VENV):$(PATH)
# Training on a CPU allocates the same large blocks in every iteration. By default glibc returns each to the system and
# requests it again, page by page, which takes up to half of the time.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 4294967296

# Where mmcv's operators come from: torchvision, or a compiler. A .venv keeps what it has.
INSTALLED := $(shell cat .venv/installed 2>/dev/null)
OPS ?= $(or $(INSTALLED),torchvision)

ITERATIONS := 2000
# A seventh of them are full disks: 30 kills and more for each number of workers.
KILLS := 36

help:
	@echo 'make install   environment in .venv: torch, mmcv, mmdet, this package; no compiler needed'
	@echo '               (OPS=compiled compiles the operators of mmcv, once per machine; OPS=torchvision reverts that)'
	@echo 'make demo      train baseline and edge head on generated images, compare them (8 to 12 minutes on 2 cores)'
	@echo 'make test      run the tests'
	@echo 'make slow      run the tests that take longer than 15 seconds each: training runs of the command lines'
	@echo 'make coverage  both, with the coverage of mmdet_edge; fails below 97 %'
	@echo 'make soak      what takes long: 72 faults, 2000 iterations (an hour; ITERATIONS=100 KILLS=7 to try it)'
	@echo 'make lint      formatting, lint, types, docstring coverage, spelling, retired words'
	@echo 'make docs      the documentation as a site, in build/docs'
	@echo 'make audit     known vulnerabilities of the pinned versions (needs a network)'
	@echo 'make clean     remove .venv and what the demo made (other work dirs and compiled mmcv wheels stay)'

install: .venv/installed

ifneq ($(OPS),$(INSTALLED))
.PHONY: .venv/installed
endif
.venv/installed: constraints.txt requirements.txt setup.cfg tools/install.sh
	@OPS=$(OPS) bash tools/install.sh

demo: install
	@python tools/demo.py

# A process a core, each with one thread.
PYTEST = OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 8

test: install
	$(PYTEST) --dist loadfile

slow: install
	$(PYTEST) --dist load --maxschedchunk 1 -m 'slow and not soak'

coverage: install
	$(PYTEST) --dist loadfile -m 'not soak' --cov

soak: install
	ITERATIONS=$(ITERATIONS) KILLS=$(KILLS) python -m pytest -m soak -s

lint: install words
	ruff format --check .
	ruff check .
	mypy
	interrogate -q -c setup.cfg mmdet_edge benchmarks tools
	codespell

# The words that the glossary of CONTRIBUTING.md retires.
words:
	python3 .ci/check_words.py

docs: install
	python -m pip --disable-pip-version-check install -q -c constraints.txt --no-build-isolation -e '.[docs]'
	sphinx-build -q -W --keep-going -c docs . build/docs
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' >build/docs/index.html
	@echo '$(CURDIR)/build/docs/index.html'

# In a separate environment. Without --strict, packages that the service does not know would count as clean.
audit:
	python3 -m venv .venv-audit
	.venv-audit/bin/pip install -q pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf .venv .venv-audit data/shapes work_dirs/demo build *.egg-info
