# The two commands of the README are `make demo` and `make test`; both install what is missing.
.PHONY: help install demo test lint clean
.DEFAULT_GOAL := help
# Absolute, so that what runs in a work dir of its own still finds it; first in PATH for the shell scripts.
VENV := $(CURDIR)/.venv/bin
export PATH := $(VENV):$(PATH)

help:
	@echo 'make install   environment in .venv: torch, mmcv (compiled once per machine), mmdet, this package'
	@echo 'make demo      train baseline and edge head on generated images, compare them (10 minutes on 2 cores)'
	@echo 'make test      run all tests'
	@echo 'make lint      formatting, lint, types, docstring coverage'
	@echo 'make clean     remove .venv and what the demo made (trainings and compiled mmcv wheels stay)'

install: .venv/installed

.venv/installed: constraints.txt requirements.txt setup.cfg tools/install.sh
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

clean:
	rm -rf .venv data/shapes work_dirs/demo build *.egg-info
