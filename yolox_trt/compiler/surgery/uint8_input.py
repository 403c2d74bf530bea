# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Uint8Input: the network takes the image's bytes."""

from __future__ import annotations

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.graph.model_graph import ModelGraph


class Uint8Input(SurgeryPass):
    """float input 0..255 -> uint8 input and a Cast: a quarter of the bytes to write and to read.

    TensorRT 8.5 and newer take uint8 network inputs that a Cast reads, on the GPU; a DLA has no
    unsigned type (its image format is int8 or fp16 HWC4).
    """

    name = "uint8-input"
    summary = "input float 0..255 -> uint8 with a Cast (GPU only)"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        image = graph.image
        if image.dtype is not None and np.dtype(image.dtype) == np.uint8:
            return
        text = graph.metadata.get(METADATA_PREPROCESSING)
        if text and not Preprocessing.from_json(text).is_identity:
            raise ModelError(
                f"preprocessing {text} before the input",
                expected="an input of 0..255",
                fix="fold it first (`--fold-preprocessing`), or leave `--uint8-input` out",
            )
        dtype = image.dtype or np.float32
        onnx_type = 10 if np.dtype(dtype) == np.float16 else 1
        readers = list({id(n): n for n in image.outputs}.values())
        converted = graph.variable(f"{image.name}_float", dtype, image.shape)
        for node in readers:
            node.inputs = [converted if t is image else t for t in node.inputs]
        image.dtype = np.uint8
        graph.add_node("Cast", f"{image.name}_cast", [image], {"to": onnx_type}, output=converted)
        log.change(f"input {image.name}: {np.dtype(dtype)} -> uint8")
