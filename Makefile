# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
#
#   make demo     four moving cameras, the real multi_camera process, a live table; 20 s
#   make test     ruff, mypy, import contracts, pytest
#   make test-slow  the tests that take too long for each change
#   make soak     30 minutes at four cameras x 10 Hz with a fault every 20 s
#   make fuzz     an hour of damaged and hostile inputs (ARGS="--minutes 5 --seed 1")
#   make bench    benchmarks that need no GPU (BENCH="kernels pipeline": those that do)
#   make docs     the site of docs/ in site/
#   make venv     only the environment (PROFILE=test: the tests' too; AUTOWARE=1: Autoware's messages)
#   make lint     ruff, mypy and the import contracts alone
#   make clean    everything that the other targets made

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= demo
BIN := $(VENV)/bin
BOOTSTRAP := $(PYTHON) scripts/bootstrap.py --venv $(VENV)

# Measurement data that is not part of the repository; tests that need it skip without.
ifneq ($(wildcard ../shared/data),)
export YOLOX_TRT_DATA ?= $(abspath ../shared/data)
endif

# A clone without a model of its own takes the data folder's.
ifeq ($(wildcard models/*.onnx),)
MODEL ?= $(wildcard $(YOLOX_TRT_DATA)/models/yolox_nano.onnx)
endif

# The tests start more than a hundred Python processes: without bytecode, each would spend a second
# on compiling the package.
unexport PYTHONDONTWRITEBYTECODE

# Processes of `make test`.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))

# Benchmarks that `make bench` runs, by their names in `yolox_trt bench`.
BENCH ?= cpu executor ros-transport

.DEFAULT_GOAL := help
.PHONY: help venv venv-test demo test test-slow lint pytest soak fuzz bench docs clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

venv:
	@$(BOOTSTRAP) --profile $(PROFILE) $(if $(AUTOWARE),--autoware)

venv-test:
	@$(BOOTSTRAP) --profile test

demo: venv
	$(BIN)/yolox_trt demo $(if $(MODEL),--model $(MODEL)) $(ARGS)

lint: venv-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# mypy and the others work while the tests wait.
test: venv-test
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

# One process more than cores, because the tests of ROS wait for other processes. Each file's tests
# stay in one process: many of them share what their module has made. The order is kept, because the
# soak, which sleeps for half a minute, comes first.
pytest: venv-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# What takes too long for each change: before a release, and when its subject is touched.
test-slow: venv-test
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

soak: venv
	$(BIN)/yolox_trt soak $(ARGS)

fuzz: venv-test
	$(BIN)/python test/fuzz $(ARGS)

bench: venv
	@set -e; for name in $(BENCH); do echo "$(BIN)/yolox_trt bench $$name $(ARGS)"; \
	  $(BIN)/yolox_trt bench $$name $(ARGS); done

docs: venv-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) site build install log dist demo_output fuzz_findings .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis .import_linter_cache $(wildcard *.egg-info)
