# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""INT8 inputs and outputs of a Q/DQ graph, for TensorRT versions that take types from the graph.

What quantises the input, or dequantises an output, is left to the caller, with its scale.
"""

from __future__ import annotations

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.outputs import split_output
from yolox_trt.graph.values import Node, Value

#: Counts in the fingerprint of engines built from such a graph: raise it when the same graph is
#: rewritten in another way.
REVISION = 1

_INT8 = 3  # onnx.TensorProto.INT8


def input_step(image: Value) -> float | None:
    """Return the scale by which an input is quantised before all else; None where it is not."""
    found = {_step(reader) for reader in image.readers}
    return found.pop() if len(found) == 1 else None


def output_step(value: Value) -> float | None:
    """Return the scale of the Q/DQ pair that makes an output; None where it is another node."""
    node = value.producer
    return _step(node.source()) if node is not None and node.op == "DequantizeLinear" else None


@refuses_damaged
def int8_scales(graph: Graph, *, inputs: bool, outputs: bool) -> dict[str, float]:
    """Return the real value of one step of what to_int8_io makes INT8, by name.

    Args:
        graph: a Q/DQ graph.
        inputs: whether the image is wanted in INT8.
        outputs: likewise the outputs.

    Raises:
        ModelError: one of them does not stand beside a Q/DQ pair of one scale.
    """
    steps = {graph.image: input_step(graph.image)} if inputs else {}
    if outputs:
        steps |= {value: output_step(value) for value in graph.outputs}
    without = [value for value, step in steps.items() if step is None]
    if without:
        names = ", ".join(f"'{v.name}' {describe(v.shape)}" for v in without)
        raise ModelError(
            f"INT8 for tensors that are not quantised: {names}",
            expected="a QuantizeLinear of one scale that reads the input, and one with a "
            "DequantizeLinear before each output",
            fix="yolox_trt optimize MODEL --target dla, then yolox_trt quantize OUT --images FOLDER"
            + (" --int8-outputs" if outputs else "")
            + ", and build what it writes; or take fp16",
        )
    return {value.name: step for value, step in steps.items() if step is not None}


@refuses_damaged
def to_int8_io(graph: Graph, *, inputs: bool, outputs: bool) -> None:
    """Let a graph begin behind the quantisation of its image, and end before its dequantisation.

    Args:
        graph: it is changed; see int8_scales for what it must be.
        inputs: whether the image becomes INT8.
        outputs: likewise the outputs.
    """
    if inputs:
        image = graph.image
        for reader in image.readers:
            graph.replace(reader.outputs[0], image)
        image.elem_type = _INT8
    for value in graph.outputs if outputs else ():
        # What reads the output within the graph goes on with real values.
        dequantize = split_output(graph, value, "dequantized").producer
        assert dequantize is not None
        codes, quantize = dequantize.inputs[0], dequantize.source()
        assert quantize is not None
        graph.replace(codes, value)
        quantize.outputs = [value]
        value.elem_type = _INT8
    graph.sort()


def _step(node: Node | None) -> float | None:
    """Return the scale of a QuantizeLinear of INT8 with one for all channels and no zero point."""
    if node is None or node.op != "QuantizeLinear":
        return None
    scale, zero = node.constant(1), node.constant(2)
    if scale is None or scale.size != 1 or zero is None or zero.dtype != np.int8 or np.any(zero):
        return None
    return float(scale.reshape(-1)[0])
