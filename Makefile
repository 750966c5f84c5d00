# The two commands of the README are `make demo` and `make test`; both install what is missing.
.PHONY: help install demo test lint audit clean
.DEFAULT_GOAL := help
# Absolute, so that what runs in a work dir of its own still finds it; first in PATH for the shell scripts.
VENV := $(CURDIR)/.venv/bin
export PATH := $(VENV):$(PATH)

help:
	@echo 'make install   environment in .venv: torch, mmcv (compiled once per machine), mmdet, this package'
	@echo 'make demo      train baseline and edge head on generated images, compare them (10 minutes on 2 cores)'
	@echo 'make test      run all tests'
	@echo 'make lint      formatting, lint, types, docstring coverage'
	@echo 'make audit     known vulnerabilities of the pinned versions (needs a network)'
	@echo 'make clean     remove .venv and what the demo made (trainings and compiled mmcv wheels stay)'

install: .venv/installed

.venv/installed: constraints.txt requirements.txt setup.cfg setup.py tools/install.sh
	@bash tools/install.sh

demo: install
	@python tools/demo.py

test: install
	python -m pytest

lint: install
	ruff format --check .
	ruff check .
	mypy
	interrogate -q -c setup.cfg mmdet_edge tools

# In an environment of its own. Without --strict, what the service does not answer for would count as clean.
audit:
	python3 -m venv .venv-audit
	.venv-audit/bin/pip install -q pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf .venv .venv-audit data/shapes work_dirs/demo build *.egg-info
