# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_detector: from a model and a Device to a Detector, with the engine that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    MissingDependencyError,
    YoloxTrtError,
    parts_of,
)
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError, library_fault
from yolox_trt.core.input_size import AUTO_SIZE, OWN_SIZE, InputSize, Size, best_size
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.option import Option, options_of
from yolox_trt.detectors import backends
from yolox_trt.detectors.auto_size import AutoSizeDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.engine_file import open_model, refuse_engine
from yolox_trt.graph.input_size import wished_size
from yolox_trt.graph.spec import read_spec

_LOGGER = logging.getLogger(__name__)

#: (engine, kind of Device) -> what makes the Detector, in the order in which "auto" tries.
BACKENDS: dict[tuple[str, str], Callable[[DetectorOptions, Device], Detector]] = {
    ("tensorrt", "gpu"): backends.tensorrt,
    ("onnxruntime", "gpu"): backends.onnxruntime_cuda,
    ("tensorrt", "dla"): backends.tensorrt,
    ("cudla", "dla"): backends.cudla,
    ("onnxruntime", "cpu"): backends.onnxruntime_cpu,
    ("simulated", "gpu"): backends.simulated,
    ("simulated", "dla"): backends.simulated,
    ("simulated", "cpu"): backends.simulated,
}
_OF = options_of(DetectorOptions)
_OTHERS = ("set ", _OF["engine"], " and ", _OF["device"])


def create_detector(options: DetectorOptions) -> Detector:
    """Make a Detector; log which engine was taken, and why those before it were not.

    Args:
        options: the model, where it shall run, and how. With input_size "auto" it is an
            AutoSizeDetector.

    Raises:
        ConfigurationError: an engine that the Device has not.
        ModelError: the model is no detector that this package can run.
        EngineError: no engine works; the reasons of each one are named. It is a DeviceBrokenError
            or an OutOfMemoryError (core.faults) if that is what one of them found.
    """
    options = options.located()
    devices = [options.device] if options.device else [Device("gpu"), Device("cpu")]
    runtime = "cudla" if options.is_loadable else "tensorrt"
    automatic = (runtime, "onnxruntime")
    attempts = [
        (engine, device)
        for device in devices
        for engine, kind in BACKENDS
        if kind == device.kind
        and (engine == options.engine or (options.engine == "auto" and engine in automatic))
        and (engine != "onnxruntime" or not options.is_engine_file)
    ]
    if not attempts:
        known = [engine for engine, kind in BACKENDS if kind == devices[0].kind]
        raise ConfigurationError(
            f"engine '{options.engine}' on {devices[0]} for {options.name}",
            expected=f"{' or '.join(known)} on {devices[0]} (built engine files are TensorRT's, "
            "DLA standalone loadables cuDLA's alone)",
            fix=_OTHERS,
        )
    size = chosen_size(options)
    if size == AUTO_SIZE:
        fixed = replace(options, input_size=OWN_SIZE)
        return AutoSizeDetector(fixed, lambda options: _first_that_works(options, attempts))
    return _first_that_works(replace(options, input_size=size), attempts)


def chosen_size(options: DetectorOptions) -> InputSize | None:
    """Return `input_size`, or what the model wishes where it is not set.

    An engine file has the size that it was built for: for it, "auto" is that.

    Raises:
        ModelError: the model cannot be read.
    """
    if options.is_engine_file:
        return options.fixed_size
    if options.input_size is not None:
        return options.input_size
    try:
        source = options.source
        if isinstance(source, str | Path):
            refuse_engine(Path(source))
        return wished_size(source)
    except MissingDependencyError:  # onnx: an engine of the cache may do without
        return None


def own_spec(options: DetectorOptions) -> ModelSpec:
    """Return the description of a model at the size with which it was exported.

    Raises:
        ModelError: the model cannot be read.
    """
    model = open_model(options.source)
    return read_spec(model, model_type=options.model_type, box_format=options.box_format)


def sized_for(options: DetectorOptions, picture: Size) -> DetectorOptions:
    """Return options whose input size is that of images of one shape, where it is "auto".

    Args:
        options: what create_detector would be asked for.
        picture: (height, width) of the images, or of the part of them that is looked at.

    Raises:
        ModelError: the model cannot be read.
    """
    options = options.located()
    if chosen_size(options) != AUTO_SIZE:
        return options
    spec = own_spec(options)
    return replace(options, input_size=best_size(spec.input_size, picture, spec.size_step))


def _first_that_works(options: DetectorOptions, attempts: Sequence[tuple[str, Device]]) -> Detector:
    """Try one engine after the other."""
    refusals: list[tuple[str, YoloxTrtError]] = []
    for engine, device in attempts:
        label = f"{engine} on {device}"
        try:
            detector = BACKENDS[engine, device.kind](options, device)
        except (EngineError, DeviceError, MissingDependencyError) as error:
            # A wrong model or parameter is wrong for every engine: those errors pass through.
            refusals.append((label, error))
            continue
        except YoloxTrtError:
            raise
        except Exception as error:
            # CUDA's own errors come up wherever an engine first touches the device.
            fault = library_fault(error, f"setting up {label} failed")
            if not isinstance(fault, DeviceBrokenError | OutOfMemoryError):
                raise
            fault.__cause__ = error
            refusals.append((label, fault))
            continue
        reasons = "".join(f"; not {label}: {error}" for label, error in refusals)
        # A GPU that is there and does not serve is worth a warning; a machine without the
        # packages for one is not, each time.
        works_badly = any(not isinstance(e, MissingDependencyError) for _, e in refusals)
        level = logging.WARNING if works_badly else logging.INFO
        _LOGGER.log(level, "%s: engine %s%s", options.name, label, reasons)
        return detector
    if len(refusals) == 1:
        raise refusals[0][1]
    found: list[str | Option] = [f"no engine for {options.name} ("]
    fix: list[str | Option] = []
    for label, refusal in refusals:
        found += [", and " if len(found) > 1 else "", f"{label}: ", *parts_of(refusal.parts[0])]
        if refusal.fix:
            fix += [f"for {label}: ", *parts_of(refusal.parts[2]), ", or "]
    kinds: list[type[EngineError]] = [DeviceBrokenError, OutOfMemoryError]
    met = (kind for kind in kinds if any(isinstance(refusal, kind) for _, refusal in refusals))
    raise next(met, EngineError)(
        (*found, ")"), expected="one of them to work", fix=(*fix, *_OTHERS, " to another")
    )
