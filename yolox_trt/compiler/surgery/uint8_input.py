# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Uint8Input: the network takes the image's bytes."""

from __future__ import annotations

from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Value

_UINT8 = 2  # onnx.TensorProto.UINT8


class Uint8Input(SurgeryPass):
    """float input 0..255 -> uint8 input and a Cast: a quarter of the bytes to write and to read.

    TensorRT 8.5 and newer take uint8 network inputs that a Cast reads, on the GPU; a DLA has no
    unsigned type (its image format is int8 or fp16 HWC4).
    """

    name = "uint8-input"
    summary = "input float 0..255 -> uint8 with a Cast (GPU only)"

    @property
    def is_wanted(self) -> bool:
        return self.options.uint8_input

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        image = graph.image
        if image.elem_type == _UINT8:
            return
        text = graph.metadata.get(METADATA_PREPROCESSING)
        if text and not Preprocessing.from_json(text).is_identity:
            declared = options_of(SurgeryOptions)
            raise ModelError(
                f"preprocessing {text} before the input",
                expected="an input of 0..255",
                fix=(
                    *("set ", declared["fold_preprocessing"], ", or leave "),
                    *(declared["uint8_input"], " out"),
                ),
            )
        before, to = image.dtype, {"to": image.elem_type}
        readers, converted = image.readers, Value(graph.unused_name(f"{image.name}_float"))
        image.elem_type = _UINT8
        for node in readers:
            node.replace_input(image, converted)
        graph.add_node("Cast", f"{image.name}_cast", [image], to, output=converted)
        log.change(f"input {image.name}: {before} -> uint8")
