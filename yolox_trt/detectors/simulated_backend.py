# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The backend "simulated" of executor.factory: a SimulatedDetector for any Device."""

from __future__ import annotations

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import DetectorRequest
from yolox_trt.detectors.simulated_detector import SimulatedDetector
from yolox_trt.engines.simulated import (
    MEASURED_CONTENTION,
    ConstantLatency,
    Contention,
    SharedMemoryChip,
)

#: Seconds for one frame where the option `latency` does not say: YOLOX-S-plus-opt, 960x960,
#: INT8 on a Jetson Orin as TIER IV reports it; on the CPU a guess at a small network.
DEFAULT_LATENCY = {"gpu": 4.1e-3, "dla": 11.69e-3, "cpu": 50e-3}

#: Devices made by this backend with the option `contention` slow one another down.
_CHIPS: dict[Contention, SharedMemoryChip] = {}


def create(request: DetectorRequest) -> Detector:
    """Make a SimulatedDetector with the description of the request's ONNX model.

    Options: `latency`, seconds for one frame; `contention`, whether GPU and DLA slow each other
    down as in engines.simulated.MEASURED_CONTENTION (default: no). The TensorRT backend's options
    `engine_cache`, `calibration_cache` and `on_progress` are of no use here and are let pass.

    Raises:
        ConfigurationError: another option, or a built engine instead of ONNX.
        ModelError: the model is not a YOLOX.
    """
    known = {"latency", "contention", "engine_cache", "calibration_cache", "on_progress"}
    unknown = sorted(set(request.options) - known)
    if unknown:
        raise ConfigurationError(
            f"options {', '.join(unknown)} of the simulated engine",
            expected="latency, contention",
            fix="leave them out",
        )
    if request.is_engine_file:
        raise ConfigurationError(
            f"a built engine, {request.model}, for the simulated engine",
            expected="an ONNX file",
            fix="name the ONNX file that it was built from",
        )
    from yolox_trt.graph.spec import read_spec

    spec = read_spec(
        request.model,
        preprocessing=request.preprocessing,
        class_names=request.class_names,
        input_size=request.input_size,
    )
    chip = None
    if request.options.get("contention"):
        chip = _CHIPS.setdefault(MEASURED_CONTENTION, SharedMemoryChip(MEASURED_CONTENTION))
    latency = request.options.get("latency", DEFAULT_LATENCY[request.device.kind])
    return SimulatedDetector(
        request.device,
        ConstantLatency(float(latency)),
        spec=spec,
        max_batch=request.max_batch or spec.batch or 1,
        chip=chip,
    )
