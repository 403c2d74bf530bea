# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where ONNX Runtime loads a model: for engines, INT8 and the checks of rewrites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.faults import library_fault
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    import onnx


def make_session(
    model: str | Path | onnx.ModelProto,
    providers: Sequence[str | tuple[str, dict[str, Any]]] = ("CPUExecutionProvider",),
    *,
    intra_op_num_threads: int | None = None,
    options: Mapping[str, str] | None = None,
    keep_memory: bool = True,
    optimize: bool = True,
    purpose: str = "running ONNX models",
) -> Any:
    """Make an onnxruntime.InferenceSession.

    Args:
        model: path of an ONNX file, or the model itself.
        providers: execution providers, best first, as ONNX Runtime takes them.
        intra_op_num_threads: threads of one operator; None leaves it to ONNX Runtime.
        options: session configuration entries (onnxruntime_session_options_config_keys.h).
        keep_memory: keep the memory of one run for the next.
        optimize: let ONNX Runtime rewrite the graph beyond the basics; that takes time, and hides
            what is to be measured.
        purpose: what for, for the error where ONNX Runtime is missing.

    Raises:
        OutOfMemoryError, DeviceBrokenError: see core.faults.
        EngineError: the model cannot be loaded.
        MissingDependencyError: onnxruntime is missing.
    """
    runtime = require("onnxruntime", purpose=purpose)
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.enable_cpu_mem_arena = keep_memory
    session_options.enable_mem_pattern = keep_memory
    if not optimize:
        session_options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if intra_op_num_threads is not None:
        session_options.intra_op_num_threads = intra_op_num_threads
    for key, value in (options or {}).items():
        session_options.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, str | Path) else model.SerializeToString()
    try:
        return runtime.InferenceSession(source, session_options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise library_fault(
            error,
            "ONNX Runtime cannot load the model",
            expected="a model with operators that it knows",
            fix="export the model again, or update onnxruntime; one with EfficientNMS_TRT needs a "
            "TensorRT engine, or `yolox_trt optimize` to take it off",
        ) from error
