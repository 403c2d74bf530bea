# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The Python door: `yolox_trt.Detector`, from anything that holds images to results."""

from yolox_trt.api.detector import Detector
from yolox_trt.api.result import Box, Result

__all__ = ["Box", "Detector", "Result"]
