# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_detector: from a model and a Device to a Detector, with the engine that fits."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    MissingDependencyError,
    YoloxTrtError,
)
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS, Preprocessing
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.engine_file import is_engine_file

if TYPE_CHECKING:
    import onnx

_LOGGER = logging.getLogger(__name__)

#: Values of the parameter `engine`.
ENGINES = ("auto", "tensorrt", "onnxruntime", "simulated")

#: (engine, kind of Device) -> "module:function". The function takes a DetectorRequest and
#: returns a Detector, or raises a YoloxTrtError that says why this machine cannot. Modules are
#: imported only when they are tried. The order is the one in which "auto" tries.
BACKENDS: dict[tuple[str, str], str] = {
    ("tensorrt", "gpu"): "yolox_trt.detectors.tensorrt_backend:create",
    ("onnxruntime", "gpu"): "yolox_trt.detectors.onnxruntime_cuda_backend:create",
    ("tensorrt", "dla"): "yolox_trt.detectors.tensorrt_backend:create",
    ("onnxruntime", "cpu"): "yolox_trt.detectors.factory:create_onnxruntime_cpu",
    ("simulated", "gpu"): "yolox_trt.detectors.simulated_backend:create",
    ("simulated", "dla"): "yolox_trt.detectors.simulated_backend:create",
    ("simulated", "cpu"): "yolox_trt.detectors.simulated_backend:create",
}


@dataclass(frozen=True, kw_only=True)
class DetectorRequest:
    """What a backend is asked to make.

    Attributes:
        model: path of an ONNX file or a built engine, or a loaded ONNX model.
        device: where it shall run.
        preprocessing: what the network expects; None takes the model's metadata or the default.
        class_names: names of the classes; None takes the model's.
        input_size: (height, width) for a model that leaves them open.
        max_batch: largest batch; None takes the model's. A model with another batch built in is
            opened for it (not for a DLA).
        precision: "fp32", "fp16", "int8" or "" for the backend's default; TensorRT only.
        threads: threads of one run on the CPU; None for all cores that the process may use.
        options: further options of one backend (engine cache folder, calibration file, latency
            model), by the names that its module documents.
    """

    model: str | Path | onnx.ModelProto
    device: Device
    preprocessing: Preprocessing | None = None
    class_names: Sequence[str] | None = None
    input_size: tuple[int, int] | None = None
    max_batch: int | None = None
    precision: str = ""
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_engine_file(self) -> bool:
        """Whether the model is a built TensorRT engine and not ONNX."""
        return isinstance(self.model, str | Path) and is_engine_file(self.model)


def create_detector(
    model: str | Path | onnx.ModelProto | None = None,
    device: Device | str = "auto",
    *,
    engine: str = "auto",
    preprocessing: Preprocessing | str | None = None,
    class_names: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    max_batch: int | None = None,
    precision: str = "",
    threads: int | None = None,
    **options: Any,
) -> Detector:
    """Make a Detector; log which engine was taken, and why those before it were not.

    Args:
        model: path of an ONNX file or a built engine, or a loaded ONNX model; None takes the
            default model (core.share.default_model).
        device: a Device or its name, or "auto": the GPU if it works, else the CPU.
        engine: "auto", "tensorrt", "onnxruntime" or "simulated" (never taken by "auto").
        preprocessing: a Preprocessing or the name of a preset (core.model_spec), None for the
            model's own.
        class_names: see DetectorRequest, as for the arguments below.
        input_size: (height, width).
        max_batch: largest batch.
        precision: of a TensorRT engine.
        threads: of one run on the CPU.
        options: further options of the backend.

    Raises:
        ConfigurationError: unknown device, engine or preset, or an engine that the Device has not.
        ModelError: the model is not a YOLOX that this package can run.
        EngineError: no engine works; the reasons of each one are named.
    """
    if engine not in ENGINES:
        raise ConfigurationError(
            f"engine '{engine}'", expected=", ".join(ENGINES), fix="set the parameter `engine`"
        )
    if isinstance(preprocessing, str):
        preprocessing = preprocessing_preset(preprocessing)
    automatic = device == "auto"
    if automatic:
        device = Device("gpu")
    elif isinstance(device, str):
        try:
            device = Device.parse(device)
        except ConfigurationError as error:
            raise ConfigurationError(
                error.found, expected=error.expected, fix="set the parameter `device`"
            ) from None
    assert isinstance(device, Device)
    request = DetectorRequest(
        model=default_model() if model is None else model,
        device=device,
        preprocessing=preprocessing,
        class_names=class_names,
        input_size=input_size,
        max_batch=max_batch,
        precision=precision,
        threads=threads,
        options=options,
    )
    attempts = _attempts(request, engine)
    if automatic:
        attempts += _attempts(replace(request, device=Device("cpu")), engine)
    if not attempts:
        raise ConfigurationError(
            f"engine '{engine}' on {device} for {_name(request)}",
            expected=_what_there_is(device),
            fix="set the parameters `engine` and `device`",
        )
    refusals: list[tuple[str, YoloxTrtError]] = []
    for name, attempt in attempts:
        label = f"{name} on {attempt.device}"
        try:
            detector = _create(BACKENDS[name, attempt.device.kind], attempt)
        except (EngineError, DeviceError, MissingDependencyError) as error:
            # A wrong model or parameter is wrong for every engine: those errors pass through.
            refusals.append((label, error))
            continue
        reasons = "".join(f"; not {label}: {error}" for label, error in refusals)
        # A GPU that is there and does not serve is worth a warning; a machine without the
        # packages for one is not, each time.
        works_badly = any(not isinstance(e, MissingDependencyError) for _, e in refusals)
        level = logging.WARNING if works_badly else logging.INFO
        _LOGGER.log(level, "%s: engine %s%s", _name(request), label, reasons)
        return detector
    if len(refusals) == 1:
        raise refusals[0][1]
    fixes = [f"for {label}: {error.fix}" for label, error in refusals if error.fix]
    raise EngineError(
        f"no engine for {_name(request)} ("
        + ", and ".join(f"{label}: {error.found}" for label, error in refusals)
        + ")",
        expected="one of them to work",
        fix=", or ".join([*fixes, "set the parameters `engine` and `device` to another"]),
    )


def preprocessing_preset(name: str) -> Preprocessing:
    """Return a named Preprocessing.

    Raises:
        ConfigurationError: there is none of this name.
    """
    try:
        return PREPROCESSING_PRESETS[name]
    except KeyError:
        raise ConfigurationError(
            f"preprocessing '{name}'",
            expected=", ".join(PREPROCESSING_PRESETS),
            fix="set the parameter `preprocessing`",
        ) from None


def create_onnxruntime_cpu(request: DetectorRequest) -> Detector:
    """Make a CpuDetector over ONNX Runtime; the backend ("onnxruntime", "cpu")."""
    from yolox_trt.detectors.cpu_detector import CpuDetector
    from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
    from yolox_trt.graph.open_batch import fit_batch
    from yolox_trt.graph.spec import read_spec

    if request.precision not in ("", "fp32"):
        raise EngineError(
            f"precision {request.precision} with ONNX Runtime on the CPU",
            expected="fp32, or the precision that is in the model itself (Q/DQ nodes)",
            fix="leave `precision` out",
        )
    spec = read_spec(
        request.model,
        preprocessing=request.preprocessing,
        class_names=request.class_names,
        input_size=request.input_size,
    )
    model, spec, max_batch = fit_batch(request.model, spec, request.max_batch)
    return CpuDetector(
        OnnxRuntimeEngine(
            model,
            spec=spec,
            max_batch=max_batch,
            intra_op_num_threads=request.threads,
        )
    )


def _attempts(request: DetectorRequest, engine: str) -> list[tuple[str, DetectorRequest]]:
    """Return the engines to try on the request's Device, in order."""
    return [
        (name, request)
        for name, kind in BACKENDS
        if kind == request.device.kind
        and (name == engine or (engine == "auto" and name != "simulated"))
        and (name != "onnxruntime" or not request.is_engine_file)
    ]


def _create(target: str, request: DetectorRequest) -> Detector:
    module_name, _, function = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except MissingDependencyError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{module_name} could not be imported ({error})",
            expected="its packages to be installed",
            fix="install what the message names, or choose another engine",
        ) from error
    detector: Detector = getattr(module, function)(request)
    return detector


def _what_there_is(device: Device) -> str:
    names = [name for name, kind in BACKENDS if kind == device.kind]
    return f"{' or '.join(names)} on {device} (built engine files are TensorRT's alone)"


def _name(request: DetectorRequest) -> str:
    return str(request.model) if isinstance(request.model, str | Path) else "the model"
