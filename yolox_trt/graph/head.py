# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Head: what lies between a detector's outputs and its last convolutions.

A YOLOX has three convolutions a level (box 4, objectness 1, classes C channels), or fewer where an
optimiser merged them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import HeadLevel, HeadTensor
from yolox_trt.core.model_types import MODEL_TYPES
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import Shape
from yolox_trt.graph.outputs import logits_of, segmentation_candidates
from yolox_trt.graph.values import Array, Node, Value

_EXPECTED = (
    "a YOLOX: one image input (N, 3, H, W) and as outputs (N, A, 5 + C), or box, objectness and "
    "class tensors of each level (N, channels, h, w), or the four of EfficientNMS_TRT; beside "
    "them one of a segmentation head at most; or a detector of another known form: "
    + "; ".join(
        f"{' or '.join((kind.name, *kind.also))} {kind.form}"
        for kind in MODEL_TYPES.values()
        if kind.name not in ("yolox", "efficient_nms")
    )
)
_FIX = (
    "name its kind by the option model type; or export it with YOLOX's tools/export_onnx.py, or "
    "give another model; model type none builds any network"
)

_CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "ConvInteger", "FusedConv"})
#: Operators that keep each channel where it is.
_CHANNELWISE = frozenset(
    {"Identity", "Cast", "Sigmoid", "QuantizeLinear", "DequantizeLinear", "Relu", "Clip"}
)
#: Convolutions that are looked for behind an output: a level has three. A Concat that reads one
#: tensor twice, behind another such one, would have thousands.
_MOST_PARTS = 64


@dataclass(frozen=True)
class Part:
    """A convolution of the head (or an output that comes from none), with its channels.

    Attributes:
        tensor: name of what it makes.
        channels: of it.
        height: of it.
        width: of it.
        feature: name of the convolution's input, "" without one.
        output: graph output that carries it, "" where none does.
        offset: its first channel there.
    """

    tensor: str
    channels: int
    height: int
    width: int
    feature: str = ""
    output: str = ""
    offset: int = 0


class Head:
    """The nodes between a graph's outputs and its last convolutions.

    Args:
        graph: the graph.
        size: (height, width) of its input.
        outputs: those of the detection head; None for all.

    Attributes:
        nodes: the nodes, without the convolutions.
        convs: the last convolutions, in the order in which the outputs join them.
    """

    def __init__(
        self, graph: Graph, size: tuple[int, int], outputs: Sequence[Value] | None = None
    ) -> None:
        self.graph, self.size = graph, size
        self.outputs = list(graph.outputs if outputs is None else outputs)
        self.nodes: list[Node] = []
        self.convs: list[Node] = []
        seen: set[Node] = set()
        stack = list(reversed(self.outputs))
        while stack:
            node = stack.pop().producer
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.op in _CONVOLUTIONS:
                self.convs.append(node)
            elif node.op not in ("Shape", "Constant"):
                # Shape only reads sizes: what lies behind it is not the head.
                self.nodes.append(node)
                stack.extend(reversed(node.inputs))

    def error(self, found: str, fix: str = _FIX) -> ModelError:
        """Make the error of a graph that is not understood; it lists the outputs."""
        return head_error(self.graph, found, fix)

    def has(self, *ops: str) -> bool:
        """Whether any of some operators is in it."""
        return any(node.op in ops for node in self.nodes)

    @property
    def has_sigmoid(self) -> bool:
        """Whether scores come out as probabilities; ONNX Runtime's FusedConv computes them too."""
        fused = any(conv.attrs.get("activation") == "Sigmoid" for conv in self.convs)
        return fused or self.has("Sigmoid")

    def parts(self) -> list[Part]:
        """Return the last convolutions as parts that no output carries."""
        return [self.part(conv.outputs[0], conv) for conv in self.convs]

    def part(self, value: Value, conv: Node | None = None, output: str = "") -> Part:
        """Describe what a convolution makes, or an output that comes from none.

        Raises:
            ModelError: its size is not known.
        """
        shape = value.shape or ()
        sizes = [size for size in shape[1:] if isinstance(size, int)]
        if len(shape) != 4 or len(sizes) != 3:
            fix = "simplify the model (onnxslim MODEL OUT), or export with fixed sizes"
            if any(node.domain.startswith("com.microsoft") for node in self.graph.nodes):
                fix = (
                    "give the model as it was before ONNX Runtime optimised it; a quantised one "
                    "with Q/DQ nodes (QuantFormat.QDQ)"
                )
            raise self.error(f"tensor '{value.name}' whose size shape inference does not find", fix)
        feature = conv.inputs[0].name if conv is not None else ""
        channels, height, width = sizes
        return Part(value.name, channels, height, width, feature, output)

    def channel_layout(self, value: Value) -> list[Part]:
        """Return the convolutions in the channels of an NCHW tensor; [] if it is not plain."""
        found: list[Part] = []
        waiting = [value]
        while waiting:
            value = waiting.pop()
            node = value.producer
            if node is None or len(found) == _MOST_PARTS:
                return []
            if node.op in _CONVOLUTIONS:
                found.append(self.part(value, node))
            elif node.op == "Concat" and node.attrs.get("axis", 0) in (1, -3):
                waiting += reversed(node.inputs)
            elif node.op in _CHANNELWISE:
                waiting.append(node.inputs[0])
            else:
                return []
        return found

    def levels(self, parts: Sequence[Part]) -> tuple[tuple[HeadLevel, ...], int]:
        """Group parts by grid size.

        Returns:
            The levels in the order of the parts, and the number of classes.

        Raises:
            ModelError: they are not those of a YOLOX.
        """
        height, width = self.size
        by_size: dict[tuple[int, int], list[Part]] = {}
        for part in parts:
            by_size.setdefault((part.height, part.width), []).append(part)
        levels, counts = [], set()
        for (rows, columns), members in by_size.items():
            stride = height // rows
            if stride * rows != height or stride * columns != width or stride < 2:
                raise self.error(
                    f"a head convolution of {rows}x{columns} cells for a {height}x{width} input"
                )
            box, objectness, classes, count = self._roles(members)
            levels.append(HeadLevel(stride, rows, columns, box, objectness, classes))
            counts.add(count)
        if len(counts) != 1:
            raise self.error(f"levels with different class counts {sorted(counts)}")
        return tuple(levels), counts.pop()

    def _roles(
        self, members: list[Part]
    ) -> tuple[HeadTensor | None, HeadTensor | None, HeadTensor | None, int]:
        """Tell box, objectness and classes of one level apart; return the number of classes too."""

        def at(part: Part, channel: int = 0) -> HeadTensor | None:
            return HeadTensor(part.output, part.offset + channel) if part.output else None

        channels = [part.channels for part in members]
        if len(members) == 1 and channels[0] > 5:
            part = members[0]
            return at(part), at(part, 4), at(part, 5), channels[0] - 5
        if len(members) == 2 and 5 in channels:
            # Box and objectness in one convolution: an optimiser merged them.
            first = _pick([p for p in members if p.channels == 5], r"reg|box|obj")
            other = members[1] if first is members[0] else members[0]
            return at(first), at(first, 4), at(other), other.channels
        if len(members) == 3 and 4 in channels and 1 in channels:
            classes = _classes_of(members)
            rest = sorted((p for p in members if p is not classes), key=lambda p: p.channels)
            if [p.channels for p in rest] == [1, 4]:
                return at(rest[1]), at(rest[0]), at(classes), classes.channels
        raise self.error(
            f"a level of {members[0].height}x{members[0].width} cells whose last convolutions have "
            f"{channels} channels (a YOLOX has 4, 1 and C)"
        )


def _classes_of(members: list[Part]) -> Part:
    """Tell the classes of a level from its box (4 channels) and objectness (1)."""
    # Box and objectness read one feature map, classes another one. This settles one class and four
    # classes, where channel counts alone do not.
    features = [part.feature for part in members]
    own = [p for p in members if features.count(p.feature) == 1 and p.feature]
    if len(own) == 1 and sorted(p.channels for p in members if p is not own[0]) == [1, 4]:
        return own[0]
    classes = _pick([p for p in members if p.channels not in (1, 4)] or members, r"cls|class")
    # Where neither graph nor names tell: YOLOX's own order is box, objectness, classes.
    told = {p.channels for p in members if p is not classes} == {1, 4}
    return classes if told else members[2]


def head_error(
    graph: Graph, found: str, fix: str = _FIX, shapes: Sequence[Shape | None] = ()
) -> ModelError:
    """Make the error of a graph that is no detector; it lists the outputs.

    Args:
        graph: the graph.
        found: what was found, beside the outputs.
        fix: what mends it.
        shapes: of the outputs, where more is known than the graph says.
    """
    known = shapes or [value.shape for value in graph.outputs]
    pairs = zip(graph.outputs[:12], known, strict=False)
    outputs = ", ".join(f"{value.name} {describe(shape)}" for value, shape in pairs)
    return ModelError(f"{found} (outputs: {outputs})", expected=_EXPECTED, fix=fix)


def describe(shape: Shape | None) -> str:
    """Return a shape as a reader sees it, "?" for what is open."""
    if shape is None:
        return "of unknown shape"
    numbers = tuple(d if isinstance(d, int) else None for d in shape)
    return str(numbers).replace("None", "?")


def anchor_grid(size: tuple[int, int], strides: Sequence[int]) -> tuple[Array, Array]:
    """Return the cells of all levels as a head decodes them.

    Args:
        size: (height, width) of the input in pixels.
        strides: of the levels, in their order.

    Returns:
        Cell corners, float64 (A, 2) as x, y in cells, and strides, float64 (A, 1) in pixels.
    """
    corners, steps = [], []
    for stride in strides:
        y, x = np.mgrid[0 : size[0] // stride, 0 : size[1] // stride]
        corners.append(np.stack((x, y), -1).reshape(-1, 2).astype(np.float64))
        steps.append(np.full((len(corners[-1]), 1), float(stride)))
    return np.concatenate(corners), np.concatenate(steps)


def head_and_stem(graph: Graph) -> tuple[frozenset[Node], frozenset[Node]]:
    """Return the nodes behind the last convolutions, and those before the first ones.

    Of a segmentation head these are the nodes behind its logits, which may have been enlarged
    behind the last convolution. A node that no convolution comes before belongs to the stem.
    """

    def region(start: list[Node | None], onwards: Callable[[Node], list[Node]]) -> set[Node]:
        found: set[Node] = set()
        while start:
            node = start.pop()
            if node is not None and node not in found and node.op != "Conv":
                found.add(node)
                start += onwards(node)
        return found

    mask_output = segmentation_candidates(graph)[0]
    ends = [value.producer for value in graph.outputs if value is not mask_output]
    head = region(ends, lambda node: node.sources)
    if mask_output is not None:
        value, logits = mask_output, logits_of(mask_output)
        while value is not logits and value.producer is not None:
            head.add(value.producer)
            value = value.producer.inputs[0]
    stem = region(
        [reader for value in graph.inputs for reader in value.readers],
        lambda node: [reader for value in node.outputs for reader in value.readers],
    )
    return frozenset(head - stem), frozenset(stem)


def _pick(candidates: list[Part], name: str) -> Part:
    """Choose a part by its name, else the first."""
    named = [p for p in candidates if re.search(name, p.output or p.tensor, re.IGNORECASE)]
    return (named or candidates)[0]
