# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The backends ("tensorrt", "gpu" and "dla") of executor.factory: a CudaDetector over TensorRT."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.tensorrt.load_engine import load_tensorrt_engine
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.errors import DeviceError, EngineError
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.detectors.cuda_detector import CudaDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.onnxruntime_cuda_backend import DETECTOR_OPTIONS
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.trt_api import load_api
from yolox_trt.graph.model_graph import load_model

if TYPE_CHECKING:
    from yolox_trt.detectors.factory import DetectorRequest

_LOGGER = logging.getLogger(__name__)

_LOG_PERIOD_S = 5.0


def create(request: DetectorRequest) -> Detector:
    """Make a CudaDetector over TensorRT; the engine comes from the cache or is built now.

    Options: those of CudaDetector and compiler.build_options.BuildOptions; `engine_cache`, the
    cache's folder; `on_progress`, called with (fraction 0..1, phase) while an engine is built
    (without it progress goes to the log). Others belong to other backends and are left alone.

    With no precision, a Q/DQ model or one with INT8 scales is built in INT8, others in FP16.

    Raises:
        DeviceError: no GPU, or no such DLA core.
        EngineError: an engine file of another precision, or see load_tensorrt_engine.
        MissingDependencyError: TensorRT or CuPy is missing.
        ModelError, ConfigurationError: see load_tensorrt_engine.
    """
    # What cannot run is not built first: a build may take minutes.
    require("cupy", purpose="TensorRT engines")
    load_api(request.options.get("flavour"))
    index = request.device.index if request.device.kind == "gpu" else 0
    if cuda_driver.compute_capability(index) is None:
        raise DeviceError(
            f"no CUDA device {index} for TensorRT on {request.device}",
            expected="an NVIDIA GPU and its driver",
            fix="check nvidia-smi, or set the parameter `device` to cpu",
        )
    options = dict(request.options)
    build: dict[str, Any] = {
        name: each.typed(options[name]) if isinstance(options[name], str) else options[name]
        for name, each in options_of(BuildOptions).items()
        if name in options
    }
    build["input_size"] = request.input_size
    build["max_batch"] = request.max_batch
    if not request.is_engine_file:
        build["precision"] = request.precision or _default_precision(request, build)
    engine = load_tensorrt_engine(
        request.model,
        request.device,
        BuildOptions(device=request.device, **build),
        options.get("engine_cache") or None,
        options.get("on_progress") or _ProgressLog(str(request.device)),
        preprocessing=request.preprocessing,
        class_names=request.class_names,
    )
    built = engine.file.fingerprint.precision
    if request.precision not in ("", built):
        engine.close()
        raise EngineError(
            f"engine {engine.file.path} in {built}",
            expected=request.precision,
            fix=f"yolox_trt build MODEL --precision {request.precision}, or leave `precision` out",
        )
    return CudaDetector(engine, **{k: v for k, v in options.items() if k in DETECTOR_OPTIONS})


def _default_precision(request: DetectorRequest, build: dict[str, Any]) -> str:
    scales = ("calibration_cache", "dynamic_ranges", "default_dynamic_range")
    if any(build.get(name) for name in scales):
        return "int8"
    nodes = load_model(request.model).graph.node
    return "int8" if any(node.op_type == "QuantizeLinear" for node in nodes) else "fp16"


class _ProgressLog:
    """Logs a build's progress every 5 s."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._logged_at = time.monotonic()

    def __call__(self, fraction: float, phase: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_PERIOD_S:
            self._logged_at = now
            _LOGGER.info(
                "%s: building the engine, %.0f %%: %s", self._device, fraction * 100, phase
            )
