# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Helpers of the TensorRT tests: models on disk, a machine with a GPU that is not there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.fake_cupy import make_cupy
from support.fake_tensorrt import FakeTensorRT
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.tensorrt.build import EngineBuilder
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.engines import cuda_driver, tensorrt
from yolox_trt.engines.engine_file import BuiltEngine
from yolox_trt.engines.trt_api import ProgressCallback, TensorRTApi

#: A Jetson Orin.
COMPUTE_CAPABILITY = "8.7"


@functools.cache
def model_bytes(**options: Any) -> bytes:
    """Return a YOLOX graph, serialised (made once for the same options)."""
    return bytes(build_yolox(**options).SerializeToString())


def save_model(folder: Path, name: str = "yolox.onnx", **options: Any) -> Path:
    """Write a YOLOX graph."""
    path = folder / name
    path.write_bytes(model_bytes(**options))
    return path


def small_model(folder: Path, **options: Any) -> Path:
    """Write the smallest YOLOX graph."""
    return save_model(folder, **{"width": 0.125, "num_classes": 4, **options})


def nodes_of(path: Path, kind: str) -> list[str]:
    """Return the names of a model's nodes of one operator, in order."""
    return [node.name for node in onnx.load(str(path)).graph.node if node.op_type == kind]


def pretend_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: str | None = COMPUTE_CAPABILITY
) -> None:
    """Let the CUDA driver report a GPU."""
    monkeypatch.setattr(cuda_driver, "compute_capability", lambda index=0: capability)


def pretend_cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in for cupy into the runtime; return it."""
    cupy = make_cupy()
    monkeypatch.setattr(tensorrt, "require", lambda name, purpose="": cupy)
    return cupy


def make_api(name: str, **options: Any) -> tuple[FakeTensorRT, TensorRTApi]:
    """Return a version's stand-in and the adapter over it."""
    fake = FakeTensorRT(name, **options)
    return fake, TensorRTApi(fake.module)


def build_engine(
    model: Path,
    options: BuildOptions,
    *,
    api: TensorRTApi | None = None,
    on_progress: ProgressCallback | None = None,
) -> BuiltEngine:
    """Plan and build an engine."""
    return EngineBuilder(BuildPlan(model, options, api=api), on_progress).build()
