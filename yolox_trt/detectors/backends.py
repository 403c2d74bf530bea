# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One function for each engine and kind of Device: from DetectorOptions to a Detector.

Each raises a YoloxTrtError that says why this machine cannot.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from yolox_trt.compiler.tensorrt.load_engine import load_tensorrt_engine
from yolox_trt.core.contention import MEASURED_CONTENTION
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.engine_file import open_model
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from yolox_trt.engines.simulated import ConstantLatency, SharedMemoryChip
from yolox_trt.engines.trt_api import load_api
from yolox_trt.graph.batch import fit_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec

_LOGGER = logging.getLogger(__name__)

_LOG_PERIOD_S = 5.0
_PRECISION = options_of(DetectorOptions)["precision"]

#: Seconds for one frame where the option `latency` does not say: YOLOX-S-plus-opt, 960x960,
#: INT8 on a Jetson Orin as TIER IV reports it; on the CPU a guess at a small network.
DEFAULT_LATENCY = {"gpu": 4.1e-3, "dla": 11.69e-3, "cpu": 50e-3}

#: The chip of all simulated devices that slow one another down.
_CHIP = SharedMemoryChip(MEASURED_CONTENTION)


def tensorrt(options: DetectorOptions, device: Device) -> CudaDetector:
    """Make a CudaDetector over TensorRT; the engine comes from the cache or is built now.

    Raises:
        DeviceError: no GPU, or no such DLA core.
        EngineError: an engine file of another precision, or see load_tensorrt_engine.
        MissingDependencyError: TensorRT or CuPy is missing.
        ModelError, ConfigurationError: see load_tensorrt_engine.
    """
    # What cannot run is not built first: a build may take minutes.
    require("cupy", purpose="TensorRT engines")
    load_api(options.build.flavour)
    cuda_driver.require_gpu(
        device,
        expected=f"an NVIDIA GPU and its driver for TensorRT on {device}",
        fix=("check nvidia-smi, or set ", options_of(DetectorOptions)["device"], " to cpu"),
    )
    engine = load_tensorrt_engine(
        options.source,
        device,
        dataclasses.replace(
            options.build,
            device=device,
            precision=options.precision,
            input_size=options.input_size,
            max_batch=options.max_batch,
        ),
        options.engine_cache,
        options.on_progress or _ProgressLog(str(device)),
        preprocessing=options.preprocessing,
        class_names=options.labels,
    )
    built = engine.file.fingerprint.precision
    if options.precision not in (None, built):
        engine.close()
        raise EngineError(
            f"engine {engine.file.path} in {built}",
            expected=str(options.precision),
            fix=(f"yolox_trt build MODEL --precision {options.precision}, or drop ", _PRECISION),
        )
    return CudaDetector(engine, **options.cuda)


def onnxruntime_cuda(options: DetectorOptions, device: Device) -> CudaDetector:
    """Make a CudaDetector over ONNX Runtime's CUDA provider.

    Raises:
        EngineError: a precision that is not in the model itself, or see OnnxRuntimeCudaEngine.
        MissingDependencyError: onnxruntime-gpu or CuPy is missing.
    """
    graph, spec = _read(options)
    own = {"float32": "fp32", "float16": "fp16"}.get(spec.input_dtype, spec.input_dtype)
    _check_precision(options, device, own)
    opened, spec, max_batch = fit_batch(graph, spec, options.max_batch)
    engine = OnnxRuntimeCudaEngine(
        opened or options.source,
        device=device,
        spec=spec,
        max_batch=max_batch,
        tf32=options.build.tf32,
    )
    return CudaDetector(engine, **options.cuda)


def onnxruntime_cpu(options: DetectorOptions, device: Device) -> CpuDetector:
    """Make a CpuDetector over ONNX Runtime.

    Raises:
        EngineError: a precision that is not in the model itself, or see OnnxRuntimeEngine.
        MissingDependencyError: onnxruntime is missing.
    """
    _check_precision(options, device, "fp32")
    graph, spec = _read(options)
    opened, spec, max_batch = fit_batch(graph, spec, options.max_batch)
    return CpuDetector(
        OnnxRuntimeEngine(
            opened or options.source,
            spec=spec,
            max_batch=max_batch,
            intra_op_num_threads=options.threads,
        )
    )


def simulated(options: DetectorOptions, device: Device) -> SimulatedDetector:
    """Make a SimulatedDetector with the description of an ONNX model.

    Raises:
        ConfigurationError: a built engine instead of ONNX.
        ModelError: the model is not a YOLOX.
    """
    if options.is_engine_file:
        raise ConfigurationError(
            f"a built engine, {options.name}, for the simulated engine",
            expected="an ONNX file",
            fix="name the ONNX file that it was built from",
        )
    _, spec = _read(options)
    return SimulatedDetector(
        device,
        ConstantLatency(options.latency or DEFAULT_LATENCY[device.kind]),
        spec=spec,
        max_batch=options.max_batch or spec.batch or 1,
        chip=_CHIP if options.contention else None,
    )


def _read(options: DetectorOptions) -> tuple[Graph, ModelSpec]:
    graph = open_model(options.source)
    return graph, read_spec(
        graph,
        preprocessing=options.preprocessing,
        class_names=options.labels,
        input_size=options.input_size,
    )


def _check_precision(options: DetectorOptions, device: Device, own: str) -> None:
    """Refuse another precision than the model's own: ONNX Runtime converts nothing."""
    if options.precision not in (None, own):
        raise EngineError(
            f"precision {options.precision} with ONNX Runtime on {device}",
            expected=f"{own}, as the model itself is",
            fix=("drop ", _PRECISION, f", or convert the model to {options.precision} first"),
        )


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
