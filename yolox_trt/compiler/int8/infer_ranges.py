# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges of tensors that calibration did not see, and the ranges that the DLA wants equal.

Implicit quantisation (calibration caches, setDynamicRange) needs a range for every tensor of an
INT8 region, on the DLA without exception: one missing range and TensorRT runs the layer in FP16
or sends it to the GPU. Q/DQ models carry ranges on convolution inputs only, so the others are
inferred from their neighbours, as NVIDIA's Q/DQ translator for cuDLA does for Concat, Mul and
pooling.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import numpy as np
import onnx

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.graph.int8_graph import Graph, attribute

#: The output holds values of the input only, so both have one range.
PASS_THROUGH = frozenset(
    {
        "AveragePool",
        "DepthToSpace",
        "Dropout",
        "Flatten",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Upsample",
    }
)
#: The output cannot exceed this magnitude, whatever the input.
BOUNDED = {"Sigmoid": 1.0, "Tanh": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0}


def infer_missing(model: onnx.ModelProto, ranges: DynamicRanges) -> list[str]:
    """Fill in ranges from neighbours, forwards and backwards, until nothing changes.

    Forwards: pass-through layers keep the range, Concat takes the largest, Sigmoid 1, SiLU
    (x * sigmoid(x)) that of x, Clip its bound, Add the sum. Backwards: a convolution that feeds
    only an activation takes the activation's range, since both are one kernel; pass-through
    layers, Concat and Add hand theirs to their inputs.

    Args:
        model: float model.
        ranges: changed in place.

    Returns:
        Names of the tensors that were filled in, in order.
    """
    graph = Graph(model)
    filled: list[str] = []

    def set_amax(name: str, value: float | None) -> bool:
        if value is None or name in ranges or graph.is_constant(name):
            return False
        ranges.set_amax(name, value)
        filled.append(name)
        return True

    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            value = _forward(graph, node, ranges)
            changed |= any([set_amax(output, value) for output in node.output])
        if changed:
            continue  # what can be derived forwards is better founded than backwards
        for node in reversed(graph.nodes):
            if node.output[0] in ranges:
                value = ranges.amax(node.output[0])
                changed |= any([set_amax(n, value) for n in _backward_inputs(graph, node)])
    return filled


def input_copies(graph: Graph) -> set[str]:
    """Return the graph's inputs and the tensors that only rearrange them (Focus' slices)."""
    copies = set(graph.inputs)
    for node in graph.nodes:
        sources = [name for name in node.input if name and not graph.is_constant(name)]
        if (node.op_type in PASS_THROUGH or node.op_type == "Concat") and copies.issuperset(
            sources
        ):
            copies.update(node.output)
    return copies


def _amax_of(graph: Graph, name: str, ranges: DynamicRanges) -> float | None:
    constant = graph.constant(name)
    if constant is not None:
        return float(np.abs(constant).max()) if constant.size else 0.0
    return ranges.amax(name) if name in ranges else None


def _forward(graph: Graph, node: onnx.NodeProto, ranges: DynamicRanges) -> float | None:
    op = node.op_type
    if op in BOUNDED:
        return BOUNDED[op]
    inputs = [_amax_of(graph, name, ranges) for name in node.input if name]
    if not inputs or inputs[0] is None:
        return _clip_bound(graph, node) if op == "Clip" else None
    known = [value for value in inputs if value is not None]
    if op in PASS_THROUGH or op in ("Relu", "LeakyRelu", "PRelu", "Abs", "Neg"):
        return inputs[0]
    if op == "Clip":
        bound = _clip_bound(graph, node)
        return inputs[0] if bound is None else min(bound, inputs[0])
    if len(known) != len(inputs):
        return None
    if op == "Concat" or op in ("Max", "Min"):
        return max(known)
    if op in ("Add", "Sub", "Sum"):
        return sum(known)
    if op == "Mul":
        return _silu_input(graph, node, ranges) or float(np.prod(known))
    return None


def _silu_input(graph: Graph, node: onnx.NodeProto, ranges: DynamicRanges) -> float | None:
    """Return the range of x where the node is x * sigmoid(x)."""
    for gate, value in (tuple(node.input), tuple(reversed(node.input))):
        producer = graph.producer.get(gate)
        if producer is not None and producer.op_type == "Sigmoid" and producer.input[0] == value:
            return _amax_of(graph, value, ranges)
    return None


def _clip_bound(graph: Graph, node: onnx.NodeProto) -> float | None:
    low, high = clip_bounds(graph, node)
    return None if low is None or high is None else max(abs(low), abs(high))


def clip_bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """Return a Clip node's (minimum, maximum), from its attributes or its constant inputs."""
    bounds: list[float | None] = []
    for index, name in ((1, "min"), (2, "max")):
        value = attribute(node, name, None)
        if value is None and len(node.input) > index and node.input[index]:
            constant = graph.constant(node.input[index])
            value = None if constant is None else float(constant.reshape(-1)[0])
        bounds.append(value)
    return bounds[0], bounds[1]


def _backward_inputs(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Return the inputs that may take over the node's output range."""
    op = node.op_type
    if op in PASS_THROUGH:
        return [node.input[0]]
    if op in ("Concat", "Add", "Sum"):
        # An addend of non-negative activations cannot exceed the sum.
        return list(node.input)
    if op in ("Relu", "Clip", "LeakyRelu", "PRelu"):
        candidates = [node.input[0]]
    elif op == "Mul":
        candidates = [
            name
            for name in node.input
            if getattr(graph.producer.get(name), "op_type", "") != "Sigmoid"
        ]
    else:
        return []
    return [
        name
        for name in candidates
        if getattr(graph.producer.get(name), "op_type", "") in ("Conv", "ConvTranspose", "Gemm")
    ]


def unify_for_dla(model: onnx.ModelProto, ranges: DynamicRanges) -> list[set[str]]:
    """Give tensors one range where the DLA takes one only: the largest of the group.

    Concat: all inputs and the output. MaxPool and other pass-through layers: input and output.
    Add, Sub, Max, Min: the two inputs. (DLA restrictions in TensorRT's guide.)

    Args:
        model: float model.
        ranges: changed in place.

    Returns:
        The groups of tensors that now share a range.
    """
    graph = Graph(model)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph.nodes:
        members = [n for n in node.input if n and not graph.is_constant(n)]
        if node.op_type in PASS_THROUGH:
            # The others are sizes, which several layers may share.
            members = [*node.input[:1], *node.output]
        elif node.op_type == "Concat":
            members = [*members, *node.output]
        elif node.op_type not in ("Add", "Sub", "Max", "Min"):
            continue
        for other in members[1:]:
            parent[root(other)] = root(members[0])
    groups: dict[str, set[str]] = {}
    for name in list(parent):
        if name in ranges:
            groups.setdefault(root(name), set()).add(name)
    shared = [group for group in groups.values() if len(group) > 1]
    for group in shared:
        largest = max(ranges.scales[name] for name in group)
        for name in group:
            ranges.scales[name] = largest
    return shared


def fixed_ranges(
    model: onnx.ModelProto, overrides: Mapping[str, float] | None = None
) -> DynamicRanges:
    """Ranges without any calibration, for networks whose activations are bounded (ReLU6).

    Each Clip's output has its bound (0..6), the input what the preprocessing makes of 0..255,
    all others follow by infer_missing. TIER IV builds its DLA engines so: kENTROPY_CALIBRATION_2
    is all that the DLA takes, and it costs YOLOX 11 points.

    Args:
        model: float model with Clip (ReLU6) activations.
        overrides: tensor name or shell pattern -> range, for tensors that no Clip bounds.

    Returns:
        Ranges of the tensors for which one follows. Raw head outputs (convolutions without an
        activation) have none unless overridden: keep those layers in FP16, or calibrate them.

    Raises:
        ConfigurationError: the model has no bounded Clip (a SiLU model must be calibrated), or
            a pattern of `overrides` matches no tensor.
    """
    graph = Graph(model)
    ranges = DynamicRanges(algorithm="fixed")
    clips = [node for node in graph.nodes if node.op_type == "Clip"]
    for node in clips:
        bound = _clip_bound(graph, node)
        if bound is not None:
            ranges.set_amax(node.output[0], bound)
    if not len(ranges):
        raise ConfigurationError(
            "a model without bounded activations",
            expected="Clip (ReLU6) activations, whose ranges are known without calibration",
            fix="yolox_trt calibrate MODEL --images FOLDER",
        )
    preprocessing = Preprocessing()
    for item in graph.model.metadata_props:
        if item.key == METADATA_PREPROCESSING:
            preprocessing = Preprocessing.from_json(item.value)
    multiplier, offset = preprocessing.factors
    for name in graph.inputs:
        ranges.set_amax(
            name,
            max(abs(v * m + o) for m, o in zip(multiplier, offset, strict=True) for v in (0, 255)),
        )
    override_ranges(model, ranges, overrides or {})
    infer_missing(model, ranges)
    return ranges


def override_ranges(
    model: onnx.ModelProto, ranges: DynamicRanges, overrides: Mapping[str, float]
) -> None:
    """Set ranges that the user gives.

    Args:
        model: float model.
        ranges: changed in place.
        overrides: tensor name or shell pattern -> range.

    Raises:
        ConfigurationError: a pattern matches no tensor.
    """
    if not overrides:
        return
    graph = Graph(model)
    names = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
    for pattern, value in overrides.items():
        # Exact names first: those of ONNX may hold characters of a pattern.
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matches:
            raise ConfigurationError(
                f"range override for '{pattern}'",
                expected="a tensor of the model, or a pattern that matches one",
                fix="correct `--set`; yolox_trt inspect MODEL lists the tensors",
            )
        for name in matches:
            ranges.set_amax(name, value)
