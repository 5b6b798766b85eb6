# `make demo` and `make test` are the two commands; both install what they need. TORCH=cpu installs PyTorch without CUDA.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DAGSTER_HOME := $(CURDIR)/.dagster
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PYTHONUNBUFFERED := 1

.PHONY: help install demo test check docs ui base upsampler frames ruler lock clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

install:  ## .venv from the lock file; nothing when it is up to date
	@bash .ci/install

demo: install  ## the whole pipeline, then where the pictures and numbers are
	dvc --wait-for-lock repro
	@rag-diffusion show

test: install  ## every test that needs neither a GPU nor hours
	pytest -n 2 --dist worksteal -m "not gpu and not long"

check: install  ## lint, types, layers and the fast tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest -q -n 2 --dist worksteal -m "not slow and not gpu and not long"

docs: install  ## the documentation's site, in build/site
	python docs/build_site.py

ui: install  ## MLflow and Dagster in the browser
	@python -m rag_diffusion.orchestration.ui

base: install  ## train the base generator again (a GPU takes hours), then promote it
	dvc --cd pipelines --wait-for-lock repro pretrain/dvc.yaml
	@rag-diffusion base promote

upsampler: install  ## train the super-resolution stage again (80 minutes), then promote it
	dvc --cd pipelines --wait-for-lock repro upsample/dvc.yaml
	@rag-diffusion base promote-upsampler

frames: install  ## train again what draws a clip's next frame (an hour), measure it, then promote it
	dvc --cd pipelines --wait-for-lock repro clips/dvc.yaml
	@rag-diffusion base promote-frames

ruler: install  ## train the scorers again, then promote them
	dvc --cd pipelines --wait-for-lock repro ruler/dvc.yaml
	@rag-diffusion ruler promote

lock:  ## resolve pyproject.toml again into requirements.lock
	python3 -m venv --clear .venv.tmp
	.venv.tmp/bin/pip install --quiet uv
	.venv.tmp/bin/uv pip compile pyproject.toml --extra all --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-strip-extras --no-header --upgrade --quiet \
	  -o requirements.lock
	rm -rf .venv.tmp

clean:  ## remove what tools cache; keep data, runs, checkpoints and .venv
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
