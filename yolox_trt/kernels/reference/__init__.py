# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definitions that every kernel must equal, in NumPy (OpenCV only for demosaicing)."""

from yolox_trt.kernels.reference.color import demosaic, yuv_to_bgr
from yolox_trt.kernels.reference.decode import Candidates, Decoder
from yolox_trt.kernels.reference.nms import nms
from yolox_trt.kernels.reference.postprocess import Postprocessor
from yolox_trt.kernels.reference.preprocess import preprocess, resize, to_bgr

__all__ = [
    "Candidates",
    "Decoder",
    "Postprocessor",
    "demosaic",
    "nms",
    "preprocess",
    "resize",
    "to_bgr",
    "yuv_to_bgr",
]
