# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The linter: walks an ONNX graph and says what a DLA would run of it, without TensorRT."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from yolox_trt.compiler.dla.limits import DlaLimits, limits_for
from yolox_trt.compiler.dla.node_checks import NodeChecks
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.partition import partition
from yolox_trt.compiler.dla.report import DlaReport, DlaSubgraph, NodeVerdict, Transfer
from yolox_trt.compiler.dla.rules import RULES, Effect, Violation
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import head_and_stem
from yolox_trt.graph.shape_walk import fold_constants
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Node, Value

if TYPE_CHECKING:
    import onnx


_CUT = "cut-head"


def check(
    model: str | Path | onnx.ModelProto | Graph,
    *,
    tensorrt: str = DlaTarget.tensorrt,
    precision: str = DlaTarget.precision,
    soc: str = DlaTarget.soc,
) -> DlaReport:
    """Check a model against the DLA's restrictions.

    Args:
        model: path or loaded model (not changed); constants are folded first, as TensorRT's parser
            does.
        tensorrt: TensorRT version, "8.5", "8.6", "8.6.12" or "10.3" (patch numbers may follow).
        precision: "int8" (with FP16 where a layer needs it) or "fp16".
        soc: "orin" or "xavier".

    Returns:
        The verdict of every node, the subgraphs, transfers and memory.

    Raises:
        ConfigurationError: an unknown version, precision or SoC.
        ModelError: the model cannot be read.
    """
    limits = limits_for(tensorrt)
    DlaTarget(tensorrt=tensorrt, precision=precision, soc=soc)
    if soc not in limits.socs:
        declared = options_of(DlaTarget)
        raise ConfigurationError(
            (declared["soc"], f" {soc} with TensorRT {tensorrt}"),
            expected=" or ".join(limits.socs),
            fix=("set ", declared["soc"], " or ", declared["tensorrt"]),
        )
    graph = open_model(model)
    name = graph.path.name if graph.path else graph.name
    return _Linter(graph, limits, precision, soc).report(name, tensorrt)


class _Linter:
    def __init__(self, model: Graph, limits: DlaLimits, precision: str, soc: str) -> None:
        self.limits, self.precision, self.soc = limits, precision, soc
        self.graph = model.copy()
        self.graph.upgrade()
        before = list(self.graph.nodes)
        fold_constants(self.graph)
        self.nodes = self.graph.nodes
        kept = set(self.nodes)
        self.folded = [node for node in before if node not in kept]
        head, stem = head_and_stem(self.graph)
        self.checks = NodeChecks(self.graph, limits, precision, soc, head=head, stem=stem)
        self._model = model

    @cached_property
    def _head_can_be_cut(self) -> bool:
        """Whether the pass cut-head knows the model's outputs."""
        for size in (None, (640, 640)):  # the second for an open height and width
            with contextlib.suppress(ValueError, LookupError):
                read_spec(self._model, input_size=size)
                return True
        return False

    def _check(self, node: Node) -> list[Violation]:
        broken = self.checks.check(node)
        if any(v.mended_by == _CUT for v in broken) and not self._head_can_be_cut:
            # `optimize` would refuse to cut a head that is none of a YOLOX.
            return [replace(v, mended_by="") if v.mended_by == _CUT else v for v in broken]
        return broken

    def report(self, name: str, tensorrt: str) -> DlaReport:
        broken = {n: self._check(n) for n in self.nodes}
        dropped = {n for n in self.nodes if self.checks.is_dropped(n)}
        on_dla = [
            n
            for n in self.nodes
            if n not in dropped and not any(v.effect is Effect.GPU for v in broken[n])
        ]
        regions = partition(self.nodes, self._edges(dropped), on_dla)
        subgraph_of = {node: i for i, nodes in enumerate(regions) for node in nodes}
        verdicts = [
            self._verdict(n, broken[n], n in dropped, subgraph_of.get(n)) for n in self.nodes
        ]
        verdicts += [NodeVerdict(n.name, n.op, "folded") for n in self.folded]
        precisions = {n.name: v.precision for n, v in zip(self.nodes, verdicts, strict=False)}
        subgraphs = [self._subgraph(i, nodes, precisions) for i, nodes in enumerate(regions)]
        input_format, output_format = self._formats(set(on_dla), precisions)
        return DlaReport(
            model=Path(name).name,
            tensorrt=tensorrt,
            precision=self.precision,
            soc=self.soc,
            nodes=tuple(verdicts),
            subgraphs=tuple(subgraphs),
            transfers=tuple(self._transfers(set(on_dla), subgraph_of, precisions, dropped)),
            graph_violations=tuple(self._graph_violations(subgraphs)),
            input_format=input_format,
            output_format=output_format,
            head_unknown="_head_can_be_cut" in vars(self) and not self._head_can_be_cut,
        )

    def _edges(self, dropped: set[Node]) -> dict[Node, list[Node]]:
        """Return readers of each node; a dropped node passes on to its own readers."""
        edges: dict[Node, list[Node]] = {}
        for node in reversed(self.nodes):
            readers: dict[Node, None] = {}
            for output in node.outputs:
                for reader in output.readers:
                    if reader in dropped:
                        readers.update(dict.fromkeys(edges.get(reader, [])))
                    else:
                        readers[reader] = None
            edges[node] = list(readers)
        return {k: v for k, v in edges.items() if k not in dropped}

    def _verdict(
        self, node: Node, broken: list[Violation], dropped: bool, subgraph: int | None
    ) -> NodeVerdict:
        effects = {v.effect for v in broken}
        device: Literal["dla", "gpu", "dropped"]
        device = "dropped" if dropped else "gpu" if Effect.GPU in effects else "dla"
        precision = ""
        if device == "dla":
            precision = "fp16" if Effect.FP16 in effects else self.precision
        shape = node.outputs[0].shape if node.outputs else None
        ranked = sorted(broken, key=lambda v: list(Effect).index(v.effect))
        return NodeVerdict(
            node.name,
            node.op,
            device,
            precision,
            tuple(ranked),
            subgraph,
            tuple(value.name for value in node.variables),
            tuple(t.name for t in node.outputs),
            None if shape is None else tuple(shape),
            self._detail(node),
        )

    def _detail(self, node: Node) -> str:
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
        if node.op == "Slice":
            steps = node.constant(4)
            if steps is not None and any(s != 1 for s in steps.ravel()):
                parts.append(f"step {', '.join(str(s) for s in steps.ravel())}")
        if node.op == "Transpose":
            parts.append(" ".join(str(i) for i in node.attrs.get("perm", [])))
        return " ".join(parts)

    def _subgraph(self, index: int, nodes: list[Node], precisions: dict[str, str]) -> DlaSubgraph:
        inside = set(nodes)
        weights = 0
        produced: dict[str, Value] = {}
        entering: dict[str, None] = {}
        for node in nodes:
            bytes_each = 1 if precisions[node.name] == "int8" else 2
            for tensor in node.inputs:
                if tensor.is_constant:
                    weights += math.prod(tensor.static_shape or ()) * bytes_each
                elif tensor.name and tensor.producer not in inside:
                    entering[tensor.name] = None
            for tensor in node.outputs:
                produced[tensor.name] = tensor
        leaving = [
            name
            for name, t in produced.items()
            if t.is_output or any(r not in inside for r in t.readers)
        ]
        return DlaSubgraph(
            index,
            tuple(n.name for n in nodes),
            tuple(entering),
            tuple(leaving),
            weights,
            self._peak(nodes, set(leaving), precisions),
        )

    def _peak(self, nodes: list[Node], leaving: set[str], precisions: dict[str, str]) -> int:
        """Return the largest sum of intermediate tensors alive at once, in bytes.

        In execution order; a convolution and the activation behind it count as two tensors, so it
        is an upper estimate. Inputs and outputs of the region lie in the caller's buffers.
        """
        last_use: dict[str, int] = {}
        for step, node in enumerate(nodes):
            for tensor in node.inputs:
                last_use[tensor.name] = step
        alive: dict[str, int] = {}
        peak = 0
        for step, node in enumerate(nodes):
            for tensor in node.outputs:
                if tensor.name not in leaving:
                    alive[tensor.name] = self._size(tensor, precisions[node.name])
            peak = max(peak, sum(alive.values()))
            for name in [n for n in alive if last_use.get(n, -1) <= step]:
                del alive[name]
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

    def _transfers(
        self,
        on_dla: set[Node],
        subgraph_of: dict[Node, int],
        precisions: dict[str, str],
        dropped: set[Node],
    ) -> list[Transfer]:
        found: list[Transfer] = []

        def readers_of(tensor: Value) -> list[Node]:
            result = []
            for reader in tensor.readers:
                if reader in dropped:
                    for output in reader.outputs:
                        result += readers_of(output)
                else:
                    result.append(reader)
            return result

        for tensor in self.graph.inputs:
            if any(r in on_dla for r in readers_of(tensor)):
                size = self._size(tensor, self.precision)
                found.append(Transfer(tensor.name, "gpu", "dla", size, True))
        for node in self.nodes:
            if node in dropped:
                continue
            here = node in on_dla
            precision = precisions[node.name] or self.precision
            for tensor in node.outputs:
                readers = readers_of(tensor)
                crosses = any((r in on_dla) != here for r in readers)
                # From one loadable to another it also passes through memory, but without a
                # change of format or device.
                leaves = here and tensor.is_output
                if crosses or leaves:
                    source, target = ("dla", "gpu") if here else ("gpu", "dla")
                    size = self._size(tensor, precision)
                    found.append(Transfer(tensor.name, source, target, size, not crosses))
        return found

    def _formats(self, on_dla: set[Node], precisions: dict[str, str]) -> tuple[str, str]:
        """Return the native formats of the network's input and outputs, as trtexec writes them."""
        input_format = ""
        for tensor in self.graph.inputs:
            readers = [r for r in tensor.readers if r in on_dla]
            shape = tensor.static_shape
            if not readers or shape is None or len(shape) != 4:
                continue
            only_conv = all(r.op == "Conv" for r in readers)
            low, high = self.limits.hwc4_groups
            groups = all(low <= r.attrs.get("group", 1) <= high for r in readers)
            if only_conv and groups and shape[1] in (1, 3, 4):
                input_format = f"{self.precision}:dla_hwc4"
            else:
                input_format = "int8:chw32" if self.precision == "int8" else "fp16:chw16"
        formats = []
        for tensor in self.graph.outputs:
            producer = tensor.producer
            if producer is not None and producer in on_dla:
                int8 = precisions[producer.name] == "int8"
                formats.append("int8:chw32" if int8 else "fp16:chw16")
        return input_format, ",".join(formats)

    def _graph_violations(self, subgraphs: list[DlaSubgraph]) -> list[Violation]:
        limits, broken = self.limits, []

        def add(rule: str, found: str) -> None:
            broken.append(Violation(RULES[rule], found, RULES[rule].mended_by))

        if len(subgraphs) > limits.max_loadables:
            add("loadables", f"{len(subgraphs)} subgraphs")
        for s in subgraphs:
            if s.intermediates >= limits.max_intermediates:
                add("intermediates", f"subgraph {s.index}: {s.intermediates / 2**20:.0f} MiB")
            elif s.intermediates > limits.local_dram:
                add("local-dram", f"subgraph {s.index}: {s.intermediates / 2**20:.0f} MiB")
            if s.weights > limits.global_dram:
                add("global-dram", f"subgraph {s.index}: {s.weights / 2**20:.0f} MiB")
        for tensor in self.graph.inputs:
            shape = tensor.shape
            if shape is not None and shape and not isinstance(shape[0], int):
                add("fixed-batch", f"{tensor.name}: batch '{shape[0]}'")
        return broken
