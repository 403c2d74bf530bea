# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The linter: walks an ONNX graph and says what a DLA would run of it, without TensorRT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from yolox_trt.compiler.dla.limits import DlaLimits, limits_for
from yolox_trt.compiler.dla.node_checks import NodeChecks
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.partition import partition
from yolox_trt.compiler.dla.report import DlaReport, DlaSubgraph, NodeVerdict, Transfer
from yolox_trt.compiler.dla.rules import RULES, Effect, Rule
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import ANY_SIZE, why_no_yolox
from yolox_trt.graph.int8_io import input_step, output_step
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.values import Node, Value

if TYPE_CHECKING:
    import onnx


_CUT = "cut-head"


@refuses_damaged
def check(
    model: str | Path | onnx.ModelProto | Graph, target: DlaTarget | None = None
) -> DlaReport:
    """Check a model against the DLA's restrictions.

    Args:
        model: path or loaded model (not changed); constants are folded first, as TensorRT's parser
            does.
        target: the DLA and the TensorRT version whose rules hold.

    Returns:
        The verdict of every node, the subgraphs, transfers and memory.

    Raises:
        ConfigurationError: a version without rules, or one that does not run on the chip.
        ModelError: the model cannot be read.
    """
    target = target or DlaTarget()
    limits = limits_for(target.tensorrt)
    if target.soc not in limits.socs:
        declared = options_of(DlaTarget)
        raise ConfigurationError(
            (declared["soc"], f" {target.soc} with TensorRT {target.tensorrt}"),
            expected=" or ".join(limits.socs),
            fix=("set ", declared["soc"], " or ", declared["tensorrt"]),
        )
    return _Linter(open_model(model), limits, target).report()


class _Linter:
    def __init__(self, model: Graph, limits: DlaLimits, target: DlaTarget) -> None:
        self.limits, self.target, self.model = limits, target, model
        self.graph = model.copy()
        self.graph.upgrade()
        before = list(self.graph.nodes)
        fold_constants(self.graph)
        self.nodes = self.graph.nodes
        kept = set(self.nodes)
        self.folded = [node for node in before if node not in kept]
        checks = NodeChecks(self.graph, limits, target)
        self.broken = {node: self._mendable(checks.check(node)) for node in self.nodes}
        self.dropped = {node for node in self.nodes if checks.is_dropped(node)}
        self.on_dla = {
            node
            for node, broken in self.broken.items()
            if node not in self.dropped and not any(v.effect is Effect.GPU for v in broken)
        }

    @cached_property
    def _head_can_be_cut(self) -> bool:
        """Whether the pass cut-head knows the model's outputs."""
        return any(not why_no_yolox(self.model, size) for size in (None, ANY_SIZE))

    def _mendable(self, broken: list[Rule]) -> list[Rule]:
        """Take back that cut-head mends something where it would refuse: no head of a YOLOX."""
        if any(v.mended_by == _CUT for v in broken) and not self._head_can_be_cut:
            return [replace(v, mended_by="") if v.mended_by == _CUT else v for v in broken]
        return broken

    def report(self) -> DlaReport:
        edges = {
            node: [reader for value in node.outputs for reader in self._readers(value)]
            for node in self.nodes
            if node not in self.dropped
        }
        regions = partition(self.nodes, edges, [n for n in self.nodes if n in self.on_dla])
        subgraph_of = {node: i for i, nodes in enumerate(regions) for node in nodes}
        verdicts = [self._verdict(node, subgraph_of.get(node)) for node in self.nodes]
        verdicts += [NodeVerdict(n.name, n.op, "folded") for n in self.folded]
        subgraphs = [self._subgraph(i, nodes) for i, nodes in enumerate(regions)]
        path = self.model.path
        return DlaReport(
            model=path.name if path else Path(self.model.name).name,
            tensorrt=self.target.tensorrt,
            precision=self.target.precision,
            soc=self.target.soc,
            nodes=tuple(verdicts),
            subgraphs=tuple(subgraphs),
            transfers=tuple(self._transfers()),
            graph_violations=tuple(self._graph_violations(subgraphs)),
            input_format=self._input_format(),
            output_format=",".join(
                "int8:chw32" if self._gives_int8(v) else "fp16:chw16"
                for v in self.graph.outputs
                if self._origin(v).producer in self.on_dla
            ),
            head_unknown="_head_can_be_cut" in vars(self) and not self._head_can_be_cut,
        )

    def _readers(self, value: Value) -> list[Node]:
        """Return the nodes that read a value, directly or through dropped nodes."""
        found: list[Node] = []
        for reader in value.readers:
            if reader in self.dropped:
                found += [node for output in reader.outputs for node in self._readers(output)]
            else:
                found.append(reader)
        return found

    def _origin(self, value: Value) -> Value:
        """Return what a value is made of: behind nodes that are dropped, that which they read."""
        while value.producer in self.dropped:
            value = value.producer.inputs[0]
        return value

    def _precision(self, node: Node | None) -> str:
        """Return what a node computes in on the DLA, "" off it."""
        if node is None or node not in self.on_dla:
            return ""
        fp16 = any(v.effect is Effect.FP16 for v in self.broken[node])
        if self.limits.strongly_typed and getattr(node.source(), "op", "") != "DequantizeLinear":
            fp16 = True  # what it reads is no INT8
        return "fp16" if fp16 else self.target.precision

    def _verdict(self, node: Node, subgraph: int | None) -> NodeVerdict:
        device: Literal["dla", "gpu", "dropped"] = "dla" if node in self.on_dla else "gpu"
        return NodeVerdict(
            node.name,
            node.op,
            "dropped" if node in self.dropped else device,
            self._precision(node),
            tuple(sorted(self.broken[node], key=lambda v: list(Effect).index(v.effect))),
            subgraph,
            tuple(value.name for value in node.variables),
            tuple(t.name for t in node.outputs),
            node.outputs[0].shape if node.outputs else None,
            _detail(node),
        )

    def _subgraph(self, index: int, nodes: list[Node]) -> DlaSubgraph:
        inside = set(nodes)
        weights = 0
        entering: dict[str, None] = {}
        for node in nodes:
            for tensor in map(self._origin, node.inputs):
                if tensor.is_constant:
                    size = 1 if self._precision(node) == "int8" else 2
                    weights += math.prod(tensor.static_shape or ()) * size
                elif tensor.name and tensor.producer not in inside:
                    entering[tensor.name] = None
        leaving = [
            tensor.name
            for node in nodes
            for tensor in node.outputs
            if tensor.is_output or any(reader not in inside for reader in self._readers(tensor))
        ]
        return DlaSubgraph(
            index,
            tuple(n.name for n in nodes),
            tuple(entering),
            tuple(leaving),
            weights,
            self._peak(nodes, set(leaving)),
        )

    def _peak(self, nodes: list[Node], leaving: set[str]) -> int:
        """Return the largest sum of intermediate tensors alive at once, in bytes.

        In execution order; a convolution and the activation behind it count as two tensors, so it
        is an upper estimate. Inputs and outputs of the region lie in the caller's buffers.
        """
        last_use = {
            self._origin(tensor).name: step
            for step, node in enumerate(nodes)
            for tensor in node.inputs
        }
        alive: dict[str, int] = {}
        peak = 0
        for step, node in enumerate(nodes):
            for tensor in node.outputs:
                if tensor.name not in leaving:
                    alive[tensor.name] = self._size(tensor, self._precision(node))
            peak = max(peak, sum(alive.values()))
            alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > step}
        return peak

    def _size(self, tensor: Value, precision: str) -> int:
        """Return a tensor's bytes in CHW32 (INT8) or CHW16 (FP16), an image's in HWC4."""
        shape = tensor.static_shape
        if shape is None:
            return 0
        block, size = (32, 1) if precision == "int8" else (16, 2)
        if len(shape) < 4:
            return math.prod(shape) * size
        if shape[1] <= 4 and tensor in self.graph.inputs:
            block = 4
        channels = math.ceil(shape[1] / block) * block
        return math.prod((shape[0], channels, *shape[2:])) * size

    def _transfers(self) -> Iterator[Transfer]:
        for tensor in self.graph.inputs:
            if self.on_dla.intersection(self._readers(tensor)):
                size = self._size(tensor, self.target.precision)
                yield Transfer(tensor.name, "gpu", "dla", size, True)
        for node in self.nodes:
            here = node in self.on_dla
            for tensor in node.outputs if node not in self.dropped else ():
                # From one loadable to another it also passes through memory, but without a
                # change of format or device.
                crosses = any((r in self.on_dla) != here for r in self._readers(tensor))
                if crosses or (here and tensor.is_output):
                    source, target = ("dla", "gpu") if here else ("gpu", "dla")
                    size = self._size(tensor, self._precision(node) or self.target.precision)
                    yield Transfer(tensor.name, source, target, size, not crosses)

    def _gives_int8(self, output: Value) -> bool:
        """Whether an output may be INT8: in a strongly typed network, where a pair makes it."""
        if self.limits.strongly_typed:
            return output_step(output) is not None
        return self._precision(self._origin(output).producer) == "int8"

    def _input_format(self) -> str:
        """Return the native format of the network's input, as trtexec writes it."""
        found = ""
        low, high = self.limits.hwc4_groups
        for tensor in self.graph.inputs:
            readers, shape = self.on_dla.intersection(self._readers(tensor)), tensor.static_shape
            if not readers or shape is None or len(shape) != 4:
                continue
            image = shape[1] in (1, 3, 4) and all(
                r.op == "Conv" and low <= r.attrs.get("group", 1) <= high for r in readers
            )
            precision = self.target.precision
            if self.limits.strongly_typed and input_step(tensor) is None:
                precision = "fp16"
            planes = "int8:chw32" if precision == "int8" else "fp16:chw16"
            found = f"{precision}:dla_hwc4" if image else planes
        return found

    def _graph_violations(self, subgraphs: list[DlaSubgraph]) -> Iterator[Rule]:
        limits = self.limits
        found: list[tuple[str, str]] = []
        if len(subgraphs) > limits.max_loadables:
            found.append(("loadables", f"{len(subgraphs)} subgraphs"))
        for s in subgraphs:
            if s.intermediates > limits.local_dram or s.intermediates >= limits.max_intermediates:
                rule = (
                    "local-dram" if s.intermediates < limits.max_intermediates else "intermediates"
                )
                found.append((rule, f"subgraph {s.index}: {s.intermediates / 2**20:.0f} MiB"))
            if s.weights > limits.global_dram:
                found.append(("global-dram", f"subgraph {s.index}: {s.weights / 2**20:.0f} MiB"))
        for tensor in self.graph.inputs:
            if tensor.shape and not isinstance(tensor.shape[0], int):
                found.append(("fixed-batch", f"{tensor.name}: batch '{tensor.shape[0]}'"))
        return (replace(RULES[rule], found=text) for rule, text in found)


def _detail(node: Node) -> str:
    """Return kernel, stride, groups, axis, steps or order of a node in a few characters."""
    parts = []
    weights = node.weights()
    kernel = node.attrs.get("kernel_shape", [])
    if node.op in ("Conv", "ConvTranspose") and weights is not None:
        kernel = weights.shape[2:]
    if len(kernel):
        parts.append("x".join(str(k) for k in kernel))
    strides = node.attrs.get("strides", [1])
    if any(s != 1 for s in strides):
        parts.append(f"/{strides[0]}")
    if node.attrs.get("group", 1) != 1:
        parts.append(f"groups {node.attrs['group']}")
    if node.op in ("Concat", "Split", "Gather", "Softmax"):
        parts.append(f"axis {node.attrs.get('axis', 0)}")
    steps = node.constant(4) if node.op == "Slice" else None
    if steps is not None and any(s != 1 for s in steps.ravel()):
        parts.append(f"step {', '.join(str(s) for s in steps.ravel())}")
    if node.op == "Transpose":
        parts.append(" ".join(str(i) for i in node.attrs.get("perm", [])))
    return " ".join(parts)
