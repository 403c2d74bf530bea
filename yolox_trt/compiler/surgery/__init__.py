# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX surgery: small named rewrites that leave a network's function as it was."""

from yolox_trt.compiler.surgery.merging import merge_models
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pipeline import (
    PASSES,
    OptimizeResult,
    build_passes,
    optimize,
)
from yolox_trt.compiler.surgery.report import GraphFigures, SurgeryReport
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass

__all__ = [
    "PASSES",
    "GraphFigures",
    "OptimizeResult",
    "PassLog",
    "SurgeryOptions",
    "SurgeryPass",
    "SurgeryReport",
    "build_passes",
    "merge_models",
    "optimize",
]
