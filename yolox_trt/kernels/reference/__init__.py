# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definitions that every kernel must equal, in NumPy (OpenCV only for demosaicing)."""

from yolox_trt.kernels.reference.color import demosaic, yuv_to_bgr
from yolox_trt.kernels.reference.decode import Candidates, Decoder
from yolox_trt.kernels.reference.layouts import chw_to_hwc4, pack
from yolox_trt.kernels.reference.nms import nms
from yolox_trt.kernels.reference.postprocess import Postprocessor
from yolox_trt.kernels.reference.preprocess import preprocess, resize, to_bgr

__all__ = [
    "Candidates",
    "Decoder",
    "Postprocessor",
    "chw_to_hwc4",
    "demosaic",
    "nms",
    "pack",
    "preprocess",
    "resize",
    "to_bgr",
    "yuv_to_bgr",
]
