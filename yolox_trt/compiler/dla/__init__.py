# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DLA linter: what a DLA would run of an ONNX model, and why not the rest."""

from yolox_trt.compiler.dla.limits import DLA_LIMITS
from yolox_trt.compiler.dla.linter import check
from yolox_trt.compiler.dla.report import DlaReport, DlaSubgraph, NodeVerdict, Transfer

__all__ = ["DLA_LIMITS", "DlaReport", "DlaSubgraph", "NodeVerdict", "Transfer", "check"]
