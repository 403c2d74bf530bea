# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ShapeWalk: shapes at a given input shape, and constant folding, each in one walk over a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from yolox_trt.core.limits import LIMITS
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import Shape, evaluate, infer_node, is_small
from yolox_trt.graph.values import Array, Node, Value

# A chain of shape arithmetic folds in one or two rounds.
_MAX_ROUNDS = 6

#: Q/DQ around constant weights tell TensorRT their precision: they are not computed away.
_KEPT = frozenset({
    "QuantizeLinear", "DequantizeLinear", "Bernoulli", "Multinomial", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


#: Bytes that a node may read and make in a walk over shapes, which keeps small values alone.
_WALKED_BYTES = 1 << 20


class ShapeWalk:
    """Shapes of a graph's tensors where its input has a given shape, shape arithmetic worked out.

    onnx's own inference stops at a Reshape or Resize whose sizes are computed.

    Args:
        graph: the graph, with its types inferred.
        image: shape to take for the image input; its own where it is not given.
    """

    def __init__(self, graph: Graph, image: Shape | None = None) -> None:
        self._graph = graph
        self._shapes: dict[Value, Shape | None] = {}
        if image is not None:
            self._shapes[graph.image] = image
        self._values: dict[Value, Array] = {}

    @classmethod
    def over(cls, graph: Graph, image: Shape) -> ShapeWalk:
        """Walk over a whole graph."""
        walk = cls(graph, image)
        for node in graph.nodes:
            walk.visit(node)
        return walk

    def write_shapes(self) -> None:
        """Give the values that the graph's nodes make the shapes that were found."""
        for node in self._graph.nodes:
            for value in node.outputs:
                value.shape = self.shape(value)

    def shape(self, value: Value) -> Shape | None:
        """Return the shape of an input, a constant, or what a visited node makes."""
        given = None if value.producer is not None else value.shape
        return self._shapes.get(value, given)

    def static_shape(self, value: Value) -> tuple[int, ...] | None:
        """Return a shape where every dimension is a known number."""
        return Value("", 0, self.shape(value)).static_shape

    def value(self, value: Value) -> Array | None:
        """Return the values of a small constant or of what follows from sizes; else None."""
        found = self._values.get(value)
        return value.small_values if found is None else found

    def visit_once(self, node: Node) -> None:
        """Work out what a node makes where that was not done before."""
        if any(output not in self._shapes for output in node.outputs):
            self.visit(node)

    def visit(self, node: Node) -> None:
        """Work out what a node makes, after the nodes that it reads from."""
        for source in node.sources:
            self.visit_once(source)
        types = {v.name: (v.elem_type, self.shape(v)) for v in node.inputs}
        known = {v.name: a for v in node.inputs if (a := self.value(v)) is not None}
        found = infer_node(node.to_proto(), types, known, self._graph.opsets)
        for output in node.outputs:
            self._shapes[output] = found.get(output.name, (0, None))[1]
        if all(self.value(v) is not None for v in node.inputs if v.name):
            results = _compute(self._graph, node, self.value, _WALKED_BYTES)
        else:
            results = _of_sizes(node, self.shape)
        for output, result in zip(_named(node), results or (), strict=False):
            self._shapes[output] = result.shape
            if is_small(result.shape):
                self._values[output] = result


def fold_constants(graph: Graph, *, sizes: bool = True) -> Counter[str]:
    """Compute what does not depend on the image, in one walk; shapes behind it become known.

    Args:
        graph: the graph.
        sizes: whether known sizes count as constants (Shape nodes).

    Returns:
        Operators of the nodes that went away, those that nothing needed among them.
    """
    before = Counter(node.op for node in graph.nodes)
    graph.infer_shapes()
    for _ in range(_MAX_ROUNDS):
        count = len(graph.nodes)
        _fold(graph, sizes=sizes)
        unknown = any(value.static_shape is None for n in graph.nodes for value in n.outputs)
        if len(graph.nodes) == count or not unknown:
            break
        # What was folded may tell more shapes: of an open batch, too, where onnx follows its name.
        graph.forget_shapes()
        graph.infer_shapes()
    return before - Counter(node.op for node in graph.nodes)


def _fold(graph: Graph, *, sizes: bool) -> None:
    """Compute what is known, in one walk."""
    constants = {value for node in graph.nodes for value in node.inputs if value.is_constant}
    left = LIMITS.folded_bytes - sum(value.computed_bytes for value in constants)
    for node in graph.nodes:
        results = None
        taken = node.constant(0) if node.op == "If" else None
        if taken is not None:
            graph.inline(node, "then_branch" if taken.all() else "else_branch")
            continue
        if not any(value.is_output for value in node.outputs):
            if all(value.is_constant for value in node.inputs if value.name):
                results = _compute(graph, node, lambda value: value.values, left)
            elif sizes:
                results = _of_sizes(node, lambda value: value.shape)
        if results is not None:
            left -= sum(result.nbytes for result in results)
            for output, result in zip(_named(node), results, strict=True):
                output.become_constant(np.ascontiguousarray(result).reshape(result.shape))
        elif any(value.static_shape is None for value in node.outputs):
            graph.infer_node(node)
    graph.sort()


def _compute(
    graph: Graph, node: Node, values: Callable[[Value], Array | None], most: int
) -> list[Array] | None:
    """Compute a node whose inputs are known; None where that is not allowed or not possible."""
    read = [value for value in node.inputs if value.name]
    if node.op in _KEPT or node.has_graph or not read:
        return None
    known = {value.name: np.asarray(values(value)) for value in read}
    return evaluate(node.to_proto(), known, graph.opsets, most=most)


def _of_sizes(node: Node, shape: Callable[[Value], Shape | None]) -> list[Array] | None:
    """Return what a Shape node makes, or a Gather or Slice of known sizes behind one."""
    source = node if node.op == "Shape" else node.source()
    if source is None or source.op != "Shape":
        return None
    given = shape(source.inputs[0])
    if given is None:
        return None
    sizes = np.asarray(given[source.attrs.get("start") : source.attrs.get("end")], object)
    places = [node.constant(index) for index in range(1, len(node.inputs))]
    if any(place is None for place in places):
        return None
    if node.op == "Gather":
        sizes = sizes.take(np.asarray(places[0], np.int64), 0)
    elif node.op == "Slice":
        first, last, step = (int(np.ravel(p)[0]) for p in [*places[:2], *places[3:], 1][:3])  # type: ignore[arg-type]
        sizes = sizes[first:last:step]
    elif node is not source:
        return None
    if not all(isinstance(size, int) for size in np.asarray(sizes, object).ravel().tolist()):
        return None
    return [np.asarray(sizes, np.int64)]


def _named(node: Node) -> list[Value]:
    return [value for value in node.outputs if value.name]
