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
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import KERNEL_ACTIVATIONS
from yolox_trt.compiler.int8.options import RangeOptions
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value

#: The output holds values of the input only, so both have one range.
PASS_THROUGH = frozenset(
    ("AveragePool", "DepthToSpace", "Dropout", "Flatten", "GlobalMaxPool", "Identity", "MaxPool",
     "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
     "Upsample")
)  # fmt: skip
#: The output cannot exceed this magnitude, whatever the input.
BOUNDED = {"Sigmoid": 1.0, "Tanh": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0}
#: The output's magnitude is that of the input at most.
_NO_LARGER = frozenset({"Relu", "LeakyRelu", "PRelu", "Abs", "Neg"})
#: Operators whose output's range follows from those of the inputs.
_DERIVED = PASS_THROUGH | _NO_LARGER | {"Clip", "Concat", "Max", "Min", "Add", "Sub", "Sum", "Mul"}


def infer_missing(graph: Graph, ranges: DynamicRanges) -> list[str]:
    """Fill in ranges from neighbours, forwards and backwards, until nothing changes.

    Forwards: pass-through layers keep the range, Concat takes the largest, Sigmoid 1, SiLU
    (x * sigmoid(x)) that of x, Clip its bound, Add the sum. Backwards: a convolution that feeds
    only an activation takes the activation's range, since both are one kernel; pass-through
    layers, Concat and Add hand theirs to their inputs.

    Args:
        graph: float model.
        ranges: changed in place.

    Returns:
        Names of the tensors that were filled in, in order.
    """
    filled: list[str] = []

    def fill(values: Iterable[Value], amax: float | None) -> bool:
        new = [v.name for v in values if v.name and v.name not in ranges and not v.is_constant]
        if amax is None:
            return False
        for name in new:
            ranges.set_amax(name, amax)
        filled.extend(new)
        return bool(new)

    changed = True
    while changed:
        changed = any([fill(node.outputs, _forward(node, ranges)) for node in graph.nodes])
        if changed:
            continue  # what can be derived forwards is better founded than backwards
        for node in reversed(graph.nodes):
            if node.outputs[0].name in ranges:
                changed |= fill(_backward_inputs(node), ranges.amax(node.outputs[0].name))
    return filled


def input_copies(graph: Graph) -> set[str]:
    """Return the graph's inputs and the tensors that only rearrange them (Focus' slices)."""
    copies = set(graph.inputs)
    for node in graph.nodes:
        moves = node.op in PASS_THROUGH or node.op == "Concat"
        if moves and copies.issuperset(node.variables):
            copies.update(node.outputs)
    return {value.name for value in copies}


def _amax_of(value: Value, ranges: DynamicRanges) -> float | None:
    if value.is_constant:
        values = value.values
        return float(np.abs(values).max()) if values is not None and values.size else 0.0
    return ranges.amax(value.name) if value.name in ranges else None


def _forward(node: Node, ranges: DynamicRanges) -> float | None:
    op = node.op
    if op in BOUNDED:
        return BOUNDED[op]
    if op not in _DERIVED:
        return None
    first = _amax_of(node.inputs[0], ranges)
    if op == "Clip":
        bounds = [bound for bound in (_clip_bound(node), first) if bound is not None]
        return min(bounds, default=None)
    if first is None or op in PASS_THROUGH or op in _NO_LARGER:
        return first
    known = [_amax_of(value, ranges) for value in node.inputs if value.name]
    if None in known:
        return None
    every = [amax for amax in known if amax is not None]
    if op in ("Add", "Sub", "Sum"):
        return sum(every)
    if op == "Mul":
        return _silu_input(node, ranges) or float(np.prod(every))
    return max(every)


def _silu_input(node: Node, ranges: DynamicRanges) -> float | None:
    """Return the range of x where the node is x * sigmoid(x)."""
    for gate, value in (node.inputs, reversed(node.inputs)):
        source = gate.producer
        if source is not None and source.op == "Sigmoid" and source.inputs[0] is value:
            return _amax_of(value, ranges)
    return None


def _made_by(value: Value, *ops: str) -> bool:
    return value.producer is not None and value.producer.op in ops


def _clip_bound(node: Node) -> float | None:
    """Return the largest magnitude that a Clip node lets through, None where a side is open."""
    bounds = []
    for index, name in ((1, "min"), (2, "max")):
        constant = node.constant(index)
        bound = node.attrs.get(name) if constant is None else constant.reshape(-1)[0]
        if bound is None:
            return None
        bounds.append(abs(float(bound)))
    return max(bounds)


def _backward_inputs(node: Node) -> list[Value]:
    """Return the inputs that may take over the node's output range."""
    if node.op in PASS_THROUGH:
        return [node.inputs[0]]
    if node.op in ("Concat", "Add", "Sum"):
        # An addend of non-negative activations cannot exceed the sum.
        return list(node.inputs)
    if node.op in KERNEL_ACTIVATIONS:
        candidates = [node.inputs[0]]
    elif node.op == "Mul":
        candidates = [value for value in node.inputs if not _made_by(value, "Sigmoid")]
    else:
        return []
    return [value for value in candidates if _made_by(value, "Conv", "ConvTranspose", "Gemm")]


def dla_groups(graph: Graph, *, sums: bool = False) -> list[set[str]]:
    """Return the sets of tensors that have one range on the DLA.

    Concat: all inputs and the output. MaxPool and other pass-through layers: input and output.
    Add, Sub, Max, Min: the two inputs. (DLA restrictions in TensorRT's guide.)

    Args:
        graph: float model.
        sums: whether the result of an addition has the range of its inputs too. The DLA does not
            ask for it, but an input whose own range is not known is given the result's
            (infer_missing), and with it the other input.
    """
    groups: dict[str, set[str]] = {}  # tensor -> its group, the same object for all in it
    for node in graph.nodes:
        if node.op in PASS_THROUGH:
            # The other inputs are sizes, which several layers may share.
            members = [*node.inputs[:1], *node.outputs]
        elif node.op == "Concat":
            members = [*node.variables, *node.outputs]
        elif node.op in ("Add", "Sub", "Max", "Min"):
            members = [*node.variables, *(node.outputs if sums else ())]
        else:
            continue
        joined = set[str]().union(*(groups.get(v.name, {v.name}) for v in members))
        groups.update(dict.fromkeys(joined, joined))
    return list({id(group): group for group in groups.values()}.values())


def unify_for_dla(
    graph: Graph, ranges: DynamicRanges, measured: Collection[str] = ()
) -> list[set[str]]:
    """Give tensors one range where the DLA takes one only: the largest of the group.

    Args:
        graph: float model.
        ranges: changed in place.
        measured: tensors whose ranges decide where a group has some of them; the others' are
            inferred, and often wider than what comes (6 behind every ReLU6).

    Returns:
        The groups of tensors that now share a range; see dla_groups.
    """
    shared = []
    for group in dla_groups(graph):
        known = {name for name in group if name in ranges}
        if len(known) > 1:
            largest = max(ranges[name] for name in known.intersection(measured) or known)
            ranges.update(dict.fromkeys(known, largest))
            shared.append(known)
    return shared


def fixed_ranges(graph: Graph, overrides: Mapping[str, float] | None = None) -> DynamicRanges:
    """Ranges without any calibration, for networks whose activations are bounded (ReLU6).

    Each Clip's output has its bound (0..6), the input what the preprocessing makes of 0..255,
    all others follow by infer_missing. TIER IV builds its DLA engines so: kENTROPY_CALIBRATION_2
    is all that the DLA takes, and it costs YOLOX 11 points.

    Args:
        graph: float model with Clip (ReLU6) activations.
        overrides: tensor name or shell pattern -> range, for tensors that no Clip bounds.

    Returns:
        Ranges of the tensors for which one follows. Raw head outputs (convolutions without an
        activation) have none unless overridden: keep those layers in FP16, or calibrate them.

    Raises:
        ConfigurationError: the model has no bounded Clip (a SiLU model must be calibrated), or
            a pattern of `overrides` matches no tensor.
    """
    ranges = DynamicRanges(algorithm="fixed")
    for node in graph.find("Clip"):
        bound = _clip_bound(node)
        if bound is not None:
            ranges.set_amax(node.outputs[0].name, bound)
    if not len(ranges):
        raise ConfigurationError(
            "a model without bounded activations",
            expected="Clip (ReLU6) activations, whose ranges are known without calibration",
            fix="yolox_trt calibrate MODEL --images FOLDER",
        )
    stored = graph.metadata.get(METADATA_PREPROCESSING)
    multiplier, offset = (Preprocessing.from_json(stored) if stored else Preprocessing()).factors
    largest = max(abs(v * m + o) for m, o in zip(multiplier, offset, strict=True) for v in (0, 255))
    for value in graph.inputs:
        ranges.set_amax(value.name, largest)
    override_ranges(graph, ranges, overrides or {})
    infer_missing(graph, ranges)
    return ranges


def override_ranges(graph: Graph, ranges: DynamicRanges, overrides: Mapping[str, float]) -> None:
    """Set ranges that the user gives.

    Args:
        graph: float model.
        ranges: changed in place.
        overrides: tensor name or shell pattern -> range.

    Raises:
        ConfigurationError: a pattern matches no tensor.
    """
    if not overrides:
        return
    names = [value.name for value in graph.inputs]
    names += [value.name for node in graph.nodes for value in node.outputs]
    for pattern, amax in overrides.items():
        # Exact names first: those of ONNX may hold characters of a pattern.
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matches:
            raise unknown_tensor(pattern, names)
        for name in matches:
            ranges.set_amax(name, amax)


def unknown_tensor(name: str, known: Iterable[str]) -> ConfigurationError:
    """Make the error of a tensor or pattern that a model does not have."""
    fix = ("correct ", options_of(RangeOptions)["overrides"])
    return ConfigurationError.unknown("tensor, or pattern of tensors,", name, known, fix=fix)
