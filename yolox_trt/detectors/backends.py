# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One function for each engine and kind of Device: from DetectorOptions to a Detector.

Each raises a YoloxTrtError that says why this machine cannot.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.tensorrt.load_engine import load_engine, load_tensorrt_engine
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.contention import MEASURED_CONTENTION
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.input_size import format_size
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.cudla.hybrid import CudlaHybridEngine
from yolox_trt.engines.cudla.library import load_cudla
from yolox_trt.engines.cudla.standalone import CudlaStandaloneEngine
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.engine_file import EngineFile, open_model
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine, available_cores
from yolox_trt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, require_cuda_runtime
from yolox_trt.engines.simulated import ConstantLatency, SharedMemoryChip
from yolox_trt.engines.trt_api import load_api
from yolox_trt.graph.batch import fit_batch
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.input_size import with_size
from yolox_trt.graph.onnx_session import check_memory
from yolox_trt.graph.single_input import single_input
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger(__name__)

_LOG_PERIOD_S = 5.0
_PRECISION = options_of(DetectorOptions)["precision"]
_SIZE = options_of(DetectorOptions)["input_size"]

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
        _build_options(options, device),
        options.engine_cache,
        options.on_progress or _ProgressLog(str(device)),
        preprocessing=options.preprocessing,
        class_names=options.labels,
    )
    _check_built(options, engine, engine.file)
    _tell_kind(options.name, engine.spec)
    return CudaDetector(engine, **options.cuda)


def cudla(options: DetectorOptions, device: Device) -> CudaDetector | CpuDetector:
    """Make a detector over cuDLA: a CudaDetector in hybrid mode, a CpuDetector in standalone mode.

    The loadable is a file, or it is built now by TensorRT, or comes from the cache.

    Raises:
        DeviceError: no such DLA core.
        EngineError: a model that does not run on the DLA as a whole, or see CudlaHybridEngine.
        MissingDependencyError: libcudla, or CuPy (hybrid) or NvSci (standalone), is missing, or
            TensorRT where the loadable is to be built.
        ModelError, ConfigurationError: see BuildPlan.
    """
    # What cannot run is not built first: a build may take minutes.
    library = load_cudla()
    library.check_core(device.index)
    hybrid = options.cudla_mode == "hybrid"
    make: Callable[..., CudlaHybridEngine | CudlaStandaloneEngine] = partial(
        CudlaHybridEngine if hybrid else CudlaStandaloneEngine, library=library
    )
    if hybrid:
        require("cupy", purpose="cuDLA's hybrid mode")
    engine = load_engine(
        options.source,
        device,
        _build_options(options, device, dla_standalone=True, allow_gpu_fallback=False),
        make,
        options.engine_cache,
        options.on_progress or _ProgressLog(str(device)),
        preprocessing=options.preprocessing,
        class_names=options.labels,
    )
    _check_built(options, engine, engine.file)
    return CudaDetector(engine, **options.cuda) if hybrid else CpuDetector(engine)


def onnxruntime_cuda(options: DetectorOptions, device: Device) -> CudaDetector:
    """Make a CudaDetector over ONNX Runtime's CUDA provider.

    Raises:
        EngineError: a precision that is not in the model itself, or see OnnxRuntimeCudaEngine.
        MissingDependencyError: onnxruntime-gpu or CuPy is missing.
    """
    # What cannot run is not read first, and for each further size again.
    require_cuda_runtime(device)
    graph, spec, rewritten = _read(options)
    own = {"float32": "fp32", "float16": "fp16"}.get(spec.input_dtype, spec.input_dtype)
    _check_precision(options, device, own)
    model, spec, max_batch = _fitted(options, graph, spec, rewritten)
    engine = OnnxRuntimeCudaEngine(
        model,
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
    graph, spec, rewritten = _read(options)
    threads = options.threads or available_cores()
    # A call alone is helped by the session's other threads; where there are several, each goes on
    # with its own work while they help another one. A batch is several images already; it is halved
    # where memory is short, and calls that overlap are not.
    batch = options.max_batch or spec.batch or 1
    calls = min(options.calls, threads) if batch == 1 else 1
    check_memory(graph, batch, calls=calls)
    model, spec, max_batch = _fitted(options, graph, spec, rewritten)
    engine = OnnxRuntimeEngine(model, spec=spec, max_batch=max_batch, intra_op_num_threads=threads)
    return CpuDetector(engine, *(engine.twin() for _ in range(calls - 1)))


def simulated(options: DetectorOptions, device: Device) -> SimulatedDetector:
    """Make a SimulatedDetector with the description of an ONNX model.

    Raises:
        ConfigurationError: a built engine instead of ONNX.
        ModelError: the model is no detector that is known.
    """
    if options.is_engine_file:
        raise ConfigurationError(
            f"a built engine, {options.name}, for the simulated engine",
            expected="an ONNX file",
            fix="name the ONNX file that it was built from",
        )
    _, spec, _ = _read(options)
    return SimulatedDetector(
        device,
        ConstantLatency(options.latency or DEFAULT_LATENCY[device.kind]),
        spec=spec,
        max_batch=options.max_batch or spec.batch or 1,
        chip=_CHIP if options.contention else None,
    )


def _build_options(options: DetectorOptions, device: Device, **changes: Any) -> BuildOptions:
    """Return what an engine is built for, as the detector's options have it."""
    return dataclasses.replace(
        options.build,
        device=device,
        precision=options.precision,
        input_size=options.fixed_size,
        max_batch=options.max_batch,
        model_type=options.model_type,
        box_format=options.box_format,
        **changes,
    )


def _check_built(options: DetectorOptions, engine: Engine, file: EngineFile) -> None:
    """Refuse an engine of another size or precision than was asked for, and close it."""
    if options.fixed_size not in (None, size := engine.spec.input_size):
        engine.close()
        raise EngineError(
            f"engine {file.path} of input size {format_size(size)}",
            expected=str(options.fixed_size and format_size(options.fixed_size)),
            fix=(
                "build one of this size (yolox_trt build MODEL --input-size HxW), or drop ",
                _SIZE,
            ),
        )
    built = file.fingerprint.precision
    if options.precision not in (None, built):
        engine.close()
        raise EngineError(
            f"engine {file.path} in {built}",
            expected=str(options.precision),
            fix=(f"yolox_trt build MODEL --precision {options.precision}, or drop ", _PRECISION),
        )


def _read(options: DetectorOptions) -> tuple[Graph, ModelSpec, bool]:
    """Return the model at the size asked for, its description, and whether it is not the file's."""
    graph = open_model(options.source)
    if options.fixed_size is not None:
        graph = with_size(graph, options.fixed_size)
    spec = read_spec(
        graph,
        preprocessing=options.preprocessing,
        class_names=options.labels,
        model_type=options.model_type,
        box_format=options.box_format,
    )
    _tell_kind(options.name, spec)
    rewritten = bool(single_input(graph, spec)) or options.fixed_size is not None
    return graph, spec, rewritten


def _tell_kind(name: str, spec: ModelSpec) -> None:
    """Log what was taken for granted of a network that is no YOLOX."""
    if not spec.is_yolox:
        given = spec.preprocessing
        _LOGGER.info(
            "%s: %s, outputs %s (%s), %d classes; input %s, resized by %s",
            *(name, spec.model_type, spec.head.value, spec.box_format.value, spec.num_classes),
            *(given.color_order, given.resize),
        )
    if spec.ignored:
        _LOGGER.warning(
            "%s: only boxes are read; left out: outputs %s", name, ", ".join(spec.ignored)
        )


def _fitted(
    options: DetectorOptions, graph: Graph, spec: ModelSpec, rewritten: bool
) -> tuple[Path | str | onnx.ModelProto, ModelSpec, int | None]:
    """Return what ONNX Runtime loads, its description and its largest batch."""
    opened, spec, max_batch = fit_batch(graph, spec, options.max_batch)
    if opened is None and rewritten:
        opened = graph.to_model()
    return opened or options.source, spec, max_batch


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
