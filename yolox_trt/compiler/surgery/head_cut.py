# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""HeadCut: the network ends at its last convolutions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core import model_spec
from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadTensor, ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import why_no_yolox
from yolox_trt.graph.outputs import logits_of
from yolox_trt.graph.spec import detection_head, read_spec
from yolox_trt.graph.values import Node, Value


@dataclass(frozen=True)
class RawLevel:
    """The last convolutions' outputs of one level, all logits, NCHW."""

    stride: int
    box: Value
    objectness: Value
    classes: Value


class HeadCut(SurgeryPass):
    """Everything behind the last convolutions is cut off; the outputs become reg_8, obj_8, cls_8...

    Reshape, Transpose, Concat over anchors, Exp, grids, EfficientNMS: none of it runs on a DLA,
    and the decode kernel does the same on the few candidates that pass the threshold. Shapes are
    (N, 4, h, w), (N, 1, h, w) and (N, C, h, w) for each stride. A convolution that an optimiser
    merged (5 + C channels) is divided again: its output channels are independent.

    A segmentation head ends at its logits (N, C, h, w), as output seg_4, say, for stride 4: the
    largest logit stays the largest through Softmax, and the mask kernel does the ArgMax.

    The metadata then tells strides, sigmoid, preprocessing and class names.
    The sigmoid is cut off or kept: as logits, INT8 keeps more of the scores, and the DLA would
    compute it in FP16.
    """

    name = "cut-head"
    summary = "graph ends at the last convolutions: outputs reg_8, obj_8, cls_8, ..."

    @property
    def is_wanted(self) -> bool:
        return self.options.head in ("auto", "raw")

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        if self.options.head == "auto" and (reason := why_no_yolox(graph)):
            log.note(f"the head stays as it is: no YOLOX ({reason})")
            return
        before, count = {value.name: value for value in graph.outputs}, len(graph.nodes)
        spec, levels = find_raw_levels(graph)
        keep = self.options.sigmoid == "keep"
        outputs: list[Value] = []
        for level in levels:
            scores = [level.objectness, level.classes]
            if keep:
                scores = [_with_sigmoid(graph, value) for value in scores]
            kinds = ("reg", "obj", "cls")
            for kind, value in zip(kinds, (level.box, *scores), strict=True):
                outputs.append(value)
                graph.rename(value, f"{kind}_{level.stride}")
        if spec.segmentation is not None:
            outputs.append(logits_of(before[spec.segmentation.name]))
            graph.rename(outputs[-1], f"seg_{spec.segmentation.stride}")
        graph.outputs = outputs
        graph.sort()
        metadata = dict(graph.metadata)
        values: dict[str, object] = {
            model_spec.METADATA_STRIDES: [level.stride for level in levels],
            model_spec.METADATA_SIGMOID: keep,
        }
        if model_spec.METADATA_PREPROCESSING not in metadata:
            values[model_spec.METADATA_PREPROCESSING] = parse_json(spec.preprocessing.to_json())
            log.note("no preprocessing in the metadata: BGR 0..255 (YOLOX 0.1.1 and newer) noted")
        if spec.class_names:
            values[model_spec.METADATA_CLASS_NAMES] = list(spec.class_names)
        for key, value_ in values.items():
            if key not in metadata or _parsed(metadata[key]) != value_:
                graph.metadata[key] = json.dumps(value_)
        names = [value.name for value in outputs]
        same = list(before) == names and list(before.values()) == outputs
        if same and count == len(graph.nodes) and metadata == graph.metadata:
            return
        log.change(
            f"outputs {', '.join(before)} ({spec.head.value}) -> {names[0]}, {names[1]}, {names[2]}"
            f", ... for strides {', '.join(str(level.stride) for level in levels)}; "
            f"{count - len(graph.nodes)} nodes cut; sigmoid {'kept' if keep else 'cut'}"
        )


def find_raw_levels(graph: Graph) -> tuple[ModelSpec, list[RawLevel]]:
    """Find the last convolutions of each level, dividing merged ones.

    Args:
        graph: a YOLOX with any head layout; merged convolutions are divided in place.

    Returns:
        The description of the graph as it was, and the levels in ascending stride.

    Raises:
        ModelError: not a YOLOX, or its height or width is open.
    """
    spec = read_spec(graph)
    head = detection_head(graph, (spec.input_height, spec.input_width))
    convs = {conv.outputs[0].name: conv for conv in head.convs}
    if fused := [conv.name for conv in head.convs if conv.op == "FusedConv"]:
        raise ModelError(
            f"convolution '{fused[0]}' with its activation inside, as ONNX Runtime saves it",
            expected="the model as it was exported",
            fix="give the file from before ONNX Runtime optimised it",
        )
    # As if the network ended there: sizes, features and names tell the roles apart.
    parts = [head.part(conv.outputs[0], conv, name) for name, conv in convs.items()]
    found, num_classes = head.levels(parts)
    pieces: dict[HeadTensor, Value] = {}

    def take(part: HeadTensor | None, channels: int) -> Value:
        if part is None:
            raise ModelError(
                "a level whose convolutions cannot be told apart",
                expected="box (4), objectness (1) and classes (C) convolutions",
                fix=("set ", options_of(SurgeryOptions)["head"], " to keep"),
            )
        conv = convs[part.name]
        whole = conv.outputs[0]
        if whole.shape is not None and whole.shape[1] == channels:
            return whole
        if part not in pieces:
            pieces[part] = _divide(graph, conv, part.channel, channels)
        return pieces[part]

    levels = [
        RawLevel(
            level.stride,
            take(level.box, 4),
            take(level.objectness, 1),
            take(level.classes, num_classes),
        )
        for level in sorted(found, key=lambda level: level.stride)
    ]
    return spec, levels


def _parsed(text: str) -> Any:
    """Return a value of the metadata, None where somebody wrote what is no JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _divide(graph: Graph, conv: Node, first: int, channels: int) -> Value:
    inputs = [conv.inputs[0]]
    inputs += [
        _rows(graph, conv, value, first, channels) for value in conv.inputs[1:] if value.name
    ]
    return graph.add_node("Conv", f"{conv.name}_{first}", inputs, conv.attrs)


def _rows(graph: Graph, conv: Node, tensor: Value, first: int, channels: int) -> Value:
    """Return the weights or biases of some output channels, through Q/DQ and Cast nodes."""
    values = tensor.values
    if values is not None:
        return graph.constant(f"{tensor.name}_{first}", values[first : first + channels])
    node = tensor.producer
    quantizer = node is not None and node.op in ("QuantizeLinear", "DequantizeLinear")
    # One scale, or one for each output channel: those of blocks or other axes are not divided.
    scale = node.constant(1) if node is not None and quantizer else None
    by_tensor = scale is not None and scale.size == 1
    by_channel = scale is not None and scale.ndim == 1 and node is not None and (
        int(node.attrs.get("axis", 1)) == 0 or len(tensor.shape or ()) == 1
    )  # fmt: skip
    if node is None or not (by_tensor or by_channel or node.op in ("Cast", "Identity")):
        raise ModelError(
            f"convolution '{conv.name}', which gives the outputs of several kinds, with weights "
            f"'{tensor.name}' that are computed in the graph",
            expected="constants, as they are or behind QuantizeLinear and DequantizeLinear",
            fix=(
                *("set ", options_of(SurgeryOptions)["head"], " to keep, or cut the head of "),
                "the FP32 model before it is quantised",
            ),
        )
    inputs = [_rows(graph, conv, node.inputs[0], first, channels)]
    for other in node.inputs[1:]:
        shared = by_tensor or not other.name
        inputs.append(other if shared else _rows(graph, conv, other, first, channels))
    return graph.add_node(node.op, f"{node.name}_{first}", inputs, node.attrs)


def _with_sigmoid(graph: Graph, value: Value) -> Value:
    for reader in value.readers:
        if reader.op == "Sigmoid":
            return reader.outputs[0]
    return graph.add_node("Sigmoid", f"{value.name}_sigmoid", [value])
