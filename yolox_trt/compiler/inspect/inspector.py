# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Inspector: what a model costs, before it is built."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.inspect.cost import NodeCost, count_parameters, node_costs
from yolox_trt.compiler.inspect.hardware import HARDWARE, PUBLISHED_RUNS, Hardware, PublishedRun
from yolox_trt.compiler.inspect.options import InspectOptions
from yolox_trt.compiler.inspect.parser_support import ParserProblem, check_parser
from yolox_trt.compiler.surgery.activation_patterns import silu_gate
from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.input_size import tool_size
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.values import Node

if TYPE_CHECKING:
    import onnx

#: Channels that fill the matrix units: INT8 works on 32 at a time, FP16 on 16 (TIER IV, 2023).
CHANNEL_MULTIPLES = {"int8": 32, "fp16": 16}
_ELEMENT_SIZES = {"int8": 1, "fp16": 2}
_NAMES = {"Clip": "ReLU6", "Relu": "ReLU", "LeakyRelu": "LeakyReLU", "PRelu": "PReLU"}
_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSwish", "Swish", "Mish", "Elu"}
)


@dataclass(frozen=True)
class ConvFigures:
    """One convolution (or matrix product) with its activation.

    Attributes:
        cost: operations, parameters, shapes.
        activation: "SiLU", "ReLU6", ... or "".
        nodes: names of the convolution and the activation's nodes.
        share: of all operations, 0 to 1.
        utilisation: operations / operations with channels padded to the multiple, 0 to 1.
        intensity: operations for each byte moved.
        memory_bound: whether moving its bytes takes longer than computing, on the hardware; None
            without any.
        time_ms: measured, None where unknown.
        efficiency: in percent of the hardware's peak, None where unknown.
    """

    cost: NodeCost
    activation: str
    nodes: tuple[str, ...]
    share: float
    utilisation: float
    intensity: float
    memory_bound: bool | None = None
    time_ms: float | None = None
    efficiency: float | None = None


@dataclass(frozen=True)
class Inspection:
    """A model's figures. Operations are those of one run with the whole batch.

    Attributes:
        model: file name or graph name.
        precision: "int8" or "fp16".
        input_shape: (N, C, H, W).
        gflops: conv operations / 1e9.
        padded_gflops: with channels padded to the multiple: what the matrix units do.
        parameters: weights and biases.
        operators: ONNX operator -> nodes.
        convs: convolutions and matrix products in order.
        activations: activation -> how often.
        activation_elements: activation -> elements it computes in a run.
        silu_bytes_share: share of all bytes moved that SiLU moves where it is not fused into the
            convolution (as kernels of its own), 0 to 1.
        pointwise_share: share of the operations in 1 x 1 convolutions.
        depthwise_share: share of the operations in depthwise convolutions.
        hardware: that it was compared with, None without any.
        bound_ms: least time of one run on it: each convolution at the peak or at the memory's
            bandwidth, whichever is longer; None without hardware or its peak.
        time_ms: measured time of one run, None where unknown.
        efficiency: GFLOPs / time / TOPS in percent, None where unknown.
        silu_time_share: SiLU's share of the measured time where the profile has it as layers of
            its own; None without a profile.
        published: runs of the sources on that hardware.
        problems: what TensorRT's parser does not take.
        tensorrt: version of that parser.
    """

    model: str
    precision: str
    input_shape: tuple[Any, ...]
    gflops: float
    padded_gflops: float
    parameters: int
    operators: dict[str, int]
    convs: tuple[ConvFigures, ...]
    activations: dict[str, int]
    activation_elements: dict[str, int]
    silu_bytes_share: float
    pointwise_share: float
    depthwise_share: float
    hardware: Hardware | None
    bound_ms: float | None
    time_ms: float | None
    efficiency: float | None
    silu_time_share: float | None
    published: tuple[PublishedRun, ...]
    problems: tuple[ParserProblem, ...]
    tensorrt: str

    @property
    def refused(self) -> bool:
        """Whether TensorRT's parser stops at something."""
        return any(p.refused for p in self.problems)

    @property
    def odd_channels(self) -> tuple[ConvFigures, ...]:
        """Convolutions whose channels are not multiples of what fills the units."""
        return tuple(c for c in self.convs if c.utilisation < 1.0)


@refuses_damaged
def inspect_model(
    model: str | Path | onnx.ModelProto,
    options: InspectOptions | None = None,
    *,
    profile: Mapping[str, float] | None = None,
) -> Inspection:
    """Look at a model; an open batch counts as 1 where none is given.

    Args:
        model: path or loaded model (not changed).
        options: how; without a time, it is the sum of `profile`.
        profile: layer name -> ms, as TensorRT names layers.

    Raises:
        ConfigurationError: a time without hardware, or an unknown TensorRT version.
        ModelError: the model cannot be read, or its sizes are open.
    """
    options, profile = options or InspectOptions(), profile or {}
    if options.time_ms is None and profile:
        options = dataclasses.replace(options, time_ms=sum(profile.values()))
    precision, time_ms = options.precision, options.time_ms
    chip = HARDWARE[options.hardware] if options.hardware else None
    graph = open_model(model).copy()
    name = graph.path.name if graph.path else graph.name
    graph.upgrade()
    original = graph.copy()
    graph.infer_shapes()
    shape = graph.image.shape or ()
    open_batch = bool(shape) and not isinstance(shape[0], int)
    batch = 1 if open_batch and options.batch is None else options.batch
    fix_size(graph, batch, *(tool_size(original, options.input_size) or (None, None)))
    fold_constants(graph)
    if graph.image.static_shape is None:
        raise ModelError(
            f"input of size {list(graph.image.shape or ())}",
            expected="fixed sizes",
            fix=("set ", options_of(InspectOptions)["input_size"]),
        )
    by_name = {n.name: n for n in graph.nodes}
    folded = frozenset(n.name for n in original.nodes if n.name not in by_name)
    problems = check_parser(original, options.tensorrt, folded=folded)
    costs = [cost for cost in node_costs(graph) if cost.flops]
    total = sum(c.flops for c in costs)
    bytes_each = _ELEMENT_SIZES[precision]
    measured = _assign(profile, by_name)
    peak = chip.peak(precision) if chip else None
    convs, bounds = [], []
    for cost in costs:
        activation, nodes = _activation(by_name[cost.name])
        own_time = sum(measured.get(n, 0.0) for n in nodes)
        memory_bound = None
        if chip is not None and peak is not None:
            compute_ms = cost.flops / (peak * 1e9)
            memory_ms = cost.bytes_moved(bytes_each) / (chip.bandwidth * 1e6)
            bounds.append(max(compute_ms, memory_ms))
            memory_bound = memory_ms > compute_ms
        convs.append(
            ConvFigures(
                cost,
                activation,
                nodes,
                cost.flops / total,
                _utilisation(cost, CHANNEL_MULTIPLES[precision]),
                cost.intensity(bytes_each),
                memory_bound,
                own_time or None,
                chip.efficiency(cost.gflops, own_time, precision) if chip and own_time else None,
            )
        )
    gates = _silu_gates(graph)
    counts, elements = _activations(graph, gates)
    moved = sum(c.bytes_moved(bytes_each) for c in costs)
    # Each SiLU on its own reads x twice and the gate once, and writes gate and product.
    silu_moved = 5 * elements.get("SiLU", 0) * bytes_each
    gflops = total / 1e9
    return Inspection(
        model=name,
        precision=precision,
        input_shape=tuple(graph.image.shape or ()),
        gflops=gflops,
        padded_gflops=sum((c.cost.flops / c.utilisation for c in convs), 0.0) / 1e9,
        parameters=count_parameters(graph),
        operators=dict(Counter(n.op for n in original.nodes).most_common()),
        convs=tuple(convs),
        activations=counts,
        activation_elements=elements,
        silu_bytes_share=silu_moved / (silu_moved + moved) if silu_moved else 0.0,
        pointwise_share=sum(c.share for c in convs if c.cost.kernel == (1, 1)),
        depthwise_share=sum(c.share for c in convs if c.cost.is_depthwise),
        hardware=chip,
        bound_ms=None if peak is None else sum(bounds, 0.0),
        time_ms=time_ms,
        efficiency=chip.efficiency(gflops, time_ms, precision) if chip and time_ms else None,
        silu_time_share=_silu_time(gates, by_name, profile) if profile else None,
        published=tuple(r for r in PUBLISHED_RUNS if r.device == options.hardware),
        problems=tuple(problems),
        tensorrt=options.tensorrt,
    )


def read_profile(path: str | Path) -> dict[str, float]:
    """Read measured layer times.

    Args:
        path: JSON of `trtexec --exportProfile`, of `yolox_trt build --profile --json`, or an
            object {layer: ms}.

    Returns:
        Layer name -> average time in ms.

    Raises:
        ConfigurationError: no such file, or another form.
    """
    expected = "a list of {name, averageMs} (trtexec --exportProfile), or an object {layer: ms}"
    try:
        values = read_json(path)
        if isinstance(values, dict):
            # The report of `yolox_trt build --profile`.
            values = values.get("layer_times_ms", values)
        if isinstance(values, dict):
            return {str(k): float(v) for k, v in values.items()}
        result = {}
        for entry in values:
            layer, time = entry.get("name", entry.get("layer")), entry.get("averageMs")
            time = entry.get("ms") if time is None else time
            if layer is not None and time is not None:
                result[str(layer)] = float(time)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"profile '{path}' ({error})", expected=expected, fix="write it again"
        ) from error
    if not result:
        raise ConfigurationError(
            f"profile '{path}' without layers", expected=expected, fix="write it again"
        )
    return result


def _utilisation(cost: NodeCost, multiple: int) -> float:
    """Return how much of the padded channels a convolution uses.

    A grouped convolution is padded in each group; a depthwise one works channel by channel, so
    its cost is that of its channels alone.
    """
    if len(cost.input_shape) != 4 or len(cost.output_shape) != 4:
        return 1.0
    cin, cout = cost.input_shape[1], cost.output_shape[1]
    if cost.is_depthwise:
        return cin / (math.ceil(cin / multiple) * multiple)
    cin, cout = cin // cost.groups, cout // cost.groups
    # An image's three channels have a format of their own (HWC4).
    block = 4 if cin <= 4 else multiple
    padded_in = math.ceil(cin / block) * block
    padded_out = math.ceil(cout / multiple) * multiple
    return (cin * cout) / (padded_in * padded_out)


def _activation(conv: Node) -> tuple[str, tuple[str, ...]]:
    """Return the activation behind a convolution, and the names of all their nodes."""
    readers = conv.outputs[0].readers
    if len(readers) == 2 and any(silu_gate(node) in readers for node in readers):
        return "SiLU", (conv.name, *(n.name for n in readers))
    if len(readers) == 1 and readers[0].op in _ACTIVATIONS:
        op = readers[0].op
        return _NAMES.get(op, op), (conv.name, readers[0].name)
    return "", (conv.name,)


def _silu_gates(graph: Graph) -> dict[Node, Node]:
    """Return the Mul of each SiLU with its Sigmoid."""
    return {node: gate for node in graph.nodes if (gate := silu_gate(node)) is not None}


def _activations(graph: Graph, gates: Mapping[Node, Node]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how often each activation stands, and how many elements it computes."""
    counts: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    # The gate of a SiLU is no activation of its own.
    alone = set(graph.find(*_ACTIVATIONS)).difference(gates.values())
    for node in graph.nodes:
        if node in gates or node in alone:
            name = "SiLU" if node in gates else _NAMES.get(node.op, node.op)
            counts[name] += 1
            elements[name] += math.prod(node.outputs[0].static_shape or (0,))
    return dict(counts.most_common()), dict(elements.most_common())


def _layer_parts(layer: str) -> list[str]:
    """Return the node names in a TensorRT layer's name, "Conv_1 + PWN(PWN(Sigmoid_2), Mul_3)"."""
    return [p for p in re.split(r"[\s,+()\[\]{}|]+", layer) if p and p != "PWN"]


def _assign(profile: Mapping[str, float], names: Collection[str]) -> dict[str, float]:
    """Return node -> ms; a layer of several nodes is booked on the first one it names."""
    result: dict[str, float] = {}
    for layer, time in profile.items():
        found = [p for p in _layer_parts(layer) if p in names]
        if found:
            result[found[0]] = result.get(found[0], 0.0) + time
    return result


def _silu_time(
    gates: Mapping[Node, Node], names: Collection[str], profile: Mapping[str, float]
) -> float:
    """Return the share of time in layers that hold nothing but nodes of SiLU."""
    silu = {node.name for pair in gates.items() for node in pair}
    own = 0.0
    for layer, time in profile.items():
        parts = {p for p in _layer_parts(layer) if p in names}
        own += time if parts and parts <= silu else 0.0
    return own / (sum(profile.values()) or 1.0)
