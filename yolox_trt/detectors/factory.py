# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""create_detector: from a model and a Device to a Detector, with the engine that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from yolox_trt.core.option import Option, options_of
from yolox_trt.detectors import backends
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.options import DetectorOptions

_LOGGER = logging.getLogger(__name__)

#: (engine, kind of Device) -> what makes the Detector, in the order in which "auto" tries.
BACKENDS: dict[tuple[str, str], Callable[[DetectorOptions, Device], Detector]] = {
    ("tensorrt", "gpu"): backends.tensorrt,
    ("onnxruntime", "gpu"): backends.onnxruntime_cuda,
    ("tensorrt", "dla"): backends.tensorrt,
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
        options: the model, where it shall run, and how.

    Raises:
        ConfigurationError: an engine that the Device has not.
        ModelError: the model is not a YOLOX that this package can run.
        EngineError: no engine works; the reasons of each one are named. It is a DeviceBrokenError
            or an OutOfMemoryError (core.faults) if that is what one of them found.
    """
    devices = [options.device] if options.device else [Device("gpu"), Device("cpu")]
    attempts = [
        (engine, device)
        for device in devices
        for engine, kind in BACKENDS
        if kind == device.kind
        and (engine == options.engine or (options.engine == "auto" and engine != "simulated"))
        and (engine != "onnxruntime" or not options.is_engine_file)
    ]
    if not attempts:
        known = [engine for engine, kind in BACKENDS if kind == devices[0].kind]
        raise ConfigurationError(
            f"engine '{options.engine}' on {devices[0]} for {options.name}",
            expected=f"{' or '.join(known)} on {devices[0]} (built engine files are TensorRT's "
            "alone)",
            fix=_OTHERS,
        )
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
