# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DlaReport: what the linter found."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from yolox_trt.compiler.dla.rules import Effect, Rule

Where = Literal["dla", "gpu", "dropped", "folded"]


@dataclass(frozen=True)
class NodeVerdict:
    """Where one node runs, and why.

    Attributes:
        name: node name.
        op: ONNX operator.
        device: "dla", "gpu" (fallback), "dropped" (TensorRT makes no layer of it) or "folded"
            (computed at build time).
        precision: "int8" or "fp16" on the DLA, "" elsewhere.
        violations: rules it breaks, those that decide first.
        subgraph: index of its DLA subgraph, None off the DLA.
        inputs: names of its variable inputs.
        outputs: names of its outputs.
        shape: of its first output; None where unknown.
        detail: kernel, stride, groups or axis in a few characters.
    """

    name: str
    op: str
    device: Where
    precision: str = ""
    violations: tuple[Rule, ...] = ()
    subgraph: int | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    shape: tuple[Any, ...] | None = None
    detail: str = ""

    @property
    def reasons(self) -> tuple[Rule, ...]:
        """The violations that send it to the GPU."""
        return tuple(v for v in self.violations if v.effect is Effect.GPU)


@dataclass(frozen=True)
class DlaSubgraph:
    """One region of the graph that becomes one DLA loadable.

    Attributes:
        index: number in execution order.
        nodes: names of its nodes in order.
        inputs: tensors that enter it.
        outputs: tensors that leave it.
        weights: bytes of weights (global DRAM).
        intermediates: bytes of the tensors inside it that are alive at once, at most (local DRAM).
    """

    index: int
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: int
    intermediates: int


@dataclass(frozen=True)
class Transfer:
    """A tensor that goes from one device to the other in each run.

    Attributes:
        tensor: name.
        source: "gpu" or "dla".
        target: the other one.
        size: bytes in the DLA's format (channels padded to 32 of INT8 or 16 of FP16).
        boundary: whether it is an input or output of the network itself: with a DLA-native format
            it needs no reformatting.
    """

    tensor: str
    source: str
    target: str
    size: int
    boundary: bool


@dataclass(frozen=True)
class DlaReport:
    """The linter's result for one model, TensorRT version and precision.

    Attributes:
        model: file name or graph name.
        tensorrt: version whose rules were used.
        precision: "int8" or "fp16".
        soc: "orin" or "xavier".
        nodes: verdicts in topological order, folded nodes last.
        subgraphs: DLA subgraphs in execution order.
        transfers: tensors between GPU and DLA in each run.
        graph_violations: rules that the whole graph breaks (loadables, memory).
        input_format: `--inputIOFormats` that needs no reformatting, "" where the DLA reads no
            input of the network.
        output_format: likewise `--outputIOFormats`.
        head_unknown: whether nodes fall back that `cut-head` would cut off a YOLOX, which this
            model is not.
    """

    model: str
    tensorrt: str
    precision: str
    soc: str
    nodes: tuple[NodeVerdict, ...]
    subgraphs: tuple[DlaSubgraph, ...]
    transfers: tuple[Transfer, ...]
    graph_violations: tuple[Rule, ...]
    input_format: str
    output_format: str
    head_unknown: bool = False

    @property
    def fallback_nodes(self) -> tuple[NodeVerdict, ...]:
        """Nodes that run on the GPU."""
        return tuple(n for n in self.nodes if n.device == "gpu")

    @property
    def dla_nodes(self) -> tuple[NodeVerdict, ...]:
        """Nodes that run on the DLA."""
        return tuple(n for n in self.nodes if n.device == "dla")

    @property
    def fp16_nodes(self) -> tuple[NodeVerdict, ...]:
        """Nodes that run on the DLA in FP16 though INT8 was asked for."""
        return tuple(n for n in self.dla_nodes if n.precision != self.precision)

    @property
    def passes(self) -> bool:
        """Whether everything runs on the DLA."""
        broken = any(v.effect is Effect.GPU for v in self.graph_violations)
        return not self.fallback_nodes and not broken and bool(self.dla_nodes)

    @property
    def mending_passes(self) -> tuple[str, ...]:
        """The `optimize` passes that mend fallbacks, the most frequent first."""
        found = [v for n in self.fallback_nodes for v in n.reasons]
        found += [v for v in self.graph_violations if v.effect is Effect.GPU]
        counts = Counter(v.mended_by for v in found if v.mended_by)
        return tuple(name for name, _ in counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self) | {"passes": self.passes, "mending_passes": self.mending_passes}
        del values["head_unknown"]
        return values
