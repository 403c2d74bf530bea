# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-camera YOLOX detection for ROS 2 on GPU, DLA and CPU.

import yolox_trt

detector = yolox_trt.Detector()
for box in detector("street.jpg"):
    print(box.name, box.score, box.xyxy)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolox_trt.api import Box, Detector, Result

__version__ = "0.1.0"
__all__ = ["Box", "Detector", "Result"]


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: it takes a second, the package none."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module("yolox_trt.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
