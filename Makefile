# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
#
#   make demo     four moving cameras, the real multi_camera process, a live table; 20 s
#   make test     ruff, mypy, import contracts, pytest
#   make soak     30 minutes at four cameras x 10 Hz with a fault every 20 s
#   make bench    benchmarks that need no GPU (BENCH="kernels pipeline": those that do)
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

# Benchmarks that `make bench` runs, by their names in `yolox_trt bench`.
BENCH ?= cpu executor ros-transport

.DEFAULT_GOAL := help
.PHONY: help venv venv-test demo test lint soak bench clean

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
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Each file's tests stay in one process: many of them share what their module has made.
test: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

soak: venv
	$(BIN)/yolox_trt soak $(ARGS)

bench: venv
	@set -e; for name in $(BENCH); do echo "$(BIN)/yolox_trt bench $$name $(ARGS)"; \
	  $(BIN)/yolox_trt bench $$name $(ARGS); done

clean:
	rm -rf $(VENV) build install log dist demo_output .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache $(wildcard *.egg-info)
