# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""HeadCut: the network ends at its last convolutions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core import model_spec
from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadTensor, ModelSpec
from yolox_trt.graph.model_graph import ModelGraph, drop_unused_nodes
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_CONVOLUTIONS = ("Conv",)


@dataclass(frozen=True)
class RawLevel:
    """The last convolutions' outputs of one level, all logits, NCHW."""

    stride: int
    box: gs.Tensor
    objectness: gs.Tensor
    classes: gs.Tensor


class HeadCut(SurgeryPass):
    """Everything behind the last convolutions is cut off; the outputs become reg_8, obj_8, cls_8...

    Reshape, Transpose, Concat over anchors, Exp, grids, EfficientNMS: none of it runs on a DLA,
    and the decode kernel does the same on the few candidates that pass the threshold. Shapes are
    (N, 4, h, w), (N, 1, h, w) and (N, C, h, w) for each stride. A convolution that an optimiser
    merged (5 + C channels) is divided again: its output channels are independent.

    The metadata then tells strides, sigmoid, preprocessing and class names.

    Args:
        sigmoid: "cut" (outputs are logits; INT8 keeps more of them, and the DLA would compute the
            sigmoid in FP16) or "keep" (probabilities).
    """

    name = "cut-head"
    summary = "graph ends at the last convolutions: outputs reg_8, obj_8, cls_8, ..."

    def __init__(self, sigmoid: Literal["cut", "keep"] = "cut") -> None:
        self.sigmoid = sigmoid

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        before = {t.name: t for t in graph.graph.outputs}
        count = len(graph.graph.nodes)
        spec, levels = find_raw_levels(graph)
        keep = self.sigmoid == "keep"
        outputs: list[gs.Tensor] = []
        for level in levels:
            scores = [level.objectness, level.classes]
            if keep:
                scores = [_with_sigmoid(graph, t) for t in scores]
            kinds = ("reg", "obj", "cls")
            for kind, tensor in zip(kinds, (level.box, *scores), strict=True):
                outputs.append(tensor)
                _rename(graph, tensor, f"{kind}_{level.stride}")
        graph.graph.outputs = outputs
        graph.toposort()
        for output in outputs:
            output.dtype = output.dtype or np.float32
        metadata = dict(graph.metadata)
        values: dict[str, object] = {
            model_spec.METADATA_STRIDES: [level.stride for level in levels],
            model_spec.METADATA_SIGMOID: keep,
        }
        if model_spec.METADATA_PREPROCESSING not in metadata:
            values[model_spec.METADATA_PREPROCESSING] = json.loads(spec.preprocessing.to_json())
        if spec.class_names:
            values[model_spec.METADATA_CLASS_NAMES] = list(spec.class_names)
        for key, value in values.items():
            if key not in metadata or _parsed(metadata[key]) != value:
                graph.metadata[key] = json.dumps(value)
        if model_spec.METADATA_PREPROCESSING not in metadata:
            log.note("no preprocessing in the metadata: BGR 0..255 (YOLOX 0.1.1 and newer) noted")
        names = [t.name for t in outputs]
        same = list(before) == names and [before[n] for n in names] == outputs
        if same and count == len(graph.graph.nodes) and metadata == graph.metadata:
            return
        log.change(
            f"outputs {', '.join(before)} ({spec.head.value}) -> {names[0]}, {names[1]}, {names[2]}"
            f", ... for strides {', '.join(str(level.stride) for level in levels)}; "
            f"{count - len(graph.graph.nodes)} nodes cut; sigmoid {'kept' if keep else 'cut'}"
        )


def find_raw_levels(graph: ModelGraph) -> tuple[ModelSpec, list[RawLevel]]:
    """Find the last convolutions of each level, dividing merged ones.

    Args:
        graph: a YOLOX with any head layout; merged convolutions are divided in place.

    Returns:
        The description of the graph as it was, and the levels in ascending stride.

    Raises:
        ModelError: not a YOLOX, or its height or width is open.
    """
    model = graph.to_model()
    spec = read_spec(model)
    convs = _last_convolutions(graph)
    # A copy that ends there and whose sizes, features and names tell the roles apart.
    copy = type(model)()
    copy.CopyFrom(model)
    kept = [p for p in copy.metadata_props if p.key != model_spec.METADATA_SIGMOID]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    del copy.graph.output[:]
    values = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
    for conv in convs:
        copy.graph.output.append(values[conv.outputs[0].name])
    drop_unused_nodes(copy)
    raw = read_spec(copy)
    tensors = {conv.outputs[0].name: conv.outputs[0] for conv in convs}
    pieces: dict[str, dict[int, gs.Tensor]] = {}

    def take(part: HeadTensor | None, channels: int) -> gs.Tensor:
        if part is None:
            raise ModelError(
                "a level whose convolutions cannot be told apart",
                expected="box (4), objectness (1) and classes (C) convolutions",
                fix="leave the head as it is (`--head keep`)",
            )
        whole = tensors[part.name]
        conv = graph.producer(whole)
        assert conv is not None
        if _channels(graph, conv) == channels:
            return whole
        parts = pieces.setdefault(part.name, {})
        if part.channel not in parts:
            parts[part.channel] = _divide(graph, conv, part.channel, channels)
        return parts[part.channel]

    levels = [
        RawLevel(
            level.stride,
            take(level.box, 4),
            take(level.objectness, 1),
            take(level.classes, raw.num_classes),
        )
        for level in sorted(raw.levels, key=lambda level: level.stride)
    ]
    return spec, levels


def _last_convolutions(graph: ModelGraph) -> list[gs.Node]:
    found: dict[int, gs.Node] = {}
    seen: set[int] = set()
    stack = list(reversed(graph.graph.outputs))
    while stack:
        node = graph.producer(stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op in _CONVOLUTIONS:
            found[id(node)] = node
        elif node.op != "Shape":
            stack.extend(reversed(node.inputs))
    return list(found.values())


def _parsed(text: str) -> Any:
    """Return a value of the metadata, None where somebody wrote what is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _channels(graph: ModelGraph, conv: gs.Node) -> int | None:
    shape = conv.outputs[0].shape
    if shape is not None and len(shape) == 4 and isinstance(shape[1], int):
        return shape[1]
    weights = graph.weights(conv)
    return None if weights is None else int(weights.shape[0])


def _divide(graph: ModelGraph, conv: gs.Node, first: int, channels: int) -> gs.Tensor:
    inputs: list[Any] = [conv.inputs[0]]
    inputs += [_rows(graph, conv, t, first, channels) for t in conv.inputs[1:] if t.name]
    shape = list(conv.outputs[0].shape or [])
    if len(shape) == 4:
        shape[1] = channels
    return graph.add_node(
        "Conv", f"{conv.name}_{first}", inputs, conv.attrs, shape=shape or None,
        dtype=conv.outputs[0].dtype,
    )  # fmt: skip


def _rows(
    graph: ModelGraph, conv: gs.Node, tensor: gs.Tensor, first: int, channels: int
) -> gs.Tensor:
    """Return the weights or biases of some output channels, through Q/DQ and Cast nodes."""
    values = graph.constant_value(tensor)
    if values is not None:
        return graph.constant(f"{tensor.name}_{first}", values[first : first + channels])
    node = graph.producer(tensor)
    quantizer = node is not None and node.op in ("QuantizeLinear", "DequantizeLinear")
    # One scale, or one for each output channel: those of blocks or other axes are not divided.
    scale = graph.input_constant(node, 1) if node is not None and quantizer else None
    by_tensor = scale is not None and scale.size == 1
    by_channel = scale is not None and scale.ndim == 1 and node is not None and (
        int(node.attrs.get("axis", 1)) == 0 or len(tensor.shape or ()) == 1
    )  # fmt: skip
    if node is None or not (by_tensor or by_channel or node.op in ("Cast", "Identity")):
        raise ModelError(
            f"convolution '{conv.name}', which gives the outputs of several kinds, with weights "
            f"'{tensor.name}' that are computed in the graph",
            expected="constants, as they are or behind QuantizeLinear and DequantizeLinear",
            fix="leave the head as it is (`--head keep`), or cut the head of the FP32 model before "
            "it is quantised",
        )
    inputs = [_rows(graph, conv, node.inputs[0], first, channels)]
    for other in node.inputs[1:]:
        shared = by_tensor or not other.name
        inputs.append(other if shared else _rows(graph, conv, other, first, channels))
    shape = [channels, *(tensor.shape or [])[1:]] if tensor.shape else None
    name = f"{node.name}_{first}"
    return graph.add_node(node.op, name, inputs, node.attrs, dtype=tensor.dtype, shape=shape)


def _with_sigmoid(graph: ModelGraph, tensor: gs.Tensor) -> gs.Tensor:
    for reader in tensor.outputs:
        if reader.op == "Sigmoid":
            return reader.outputs[0]
    name = f"{tensor.name}_sigmoid"
    return graph.add_node("Sigmoid", name, [tensor], dtype=tensor.dtype, shape=tensor.shape)


def _rename(graph: ModelGraph, tensor: gs.Tensor, name: str) -> None:
    if tensor.name == name:
        return
    for other in graph.graph.tensors().values():
        if other.name == name:
            other.name = graph.unique_name(f"{name}_before")
    tensor.name = name
