# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Words that every room shares: Frame, Detections, Letterbox, Device, ModelSpec.

This room imports numpy and the standard library only: no ROS, no CUDA, no I/O beyond reading a
label file. Everything else in the package may import it.
"""

from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    ConfigurationError,
    DeviceError,
    EngineError,
    FrameError,
    MissingDependencyError,
    ModelError,
    YoloxTrtError,
)
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, HeadTensor, ModelSpec, Preprocessing
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.roi import Roi

__all__ = [
    "ConfigurationError",
    "Detections",
    "Device",
    "DeviceError",
    "EngineError",
    "Frame",
    "FrameError",
    "HeadLayout",
    "HeadLevel",
    "HeadTensor",
    "Letterbox",
    "MissingDependencyError",
    "ModelError",
    "ModelSpec",
    "PostprocessOptions",
    "Preprocessing",
    "Roi",
    "YoloxTrtError",
]
