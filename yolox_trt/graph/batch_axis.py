# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Follows the batch axis through every node of a graph, and opens it.

The batch becomes a name in the shapes of the tensors that hold images, and onnx infers what each
node makes of that name. Where it comes out in one axis, the node leaves images apart; where it does
not, a constant names the old batch, or the node mixes images. Only such constants are written anew,
so names (calibration caches, layer precisions) stay, and so does what is computed at the old batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import Shape, describe, has_schema, infer_node
from yolox_trt.graph.scatter import scatter_to_concat, written_channels
from yolox_trt.graph.shape_walk import ShapeWalk
from yolox_trt.graph.values import Array, Node, Value

#: Name of the open dimension.
BATCH = "batch"

_INT64_MAX = 2**63 - 1
#: Rows and columns at which a graph of open size is looked at: what is known of its shapes then is
#: their rank and the batch's place, no size.
_EXAMPLE_SIZE = (64, 96)

# fmt: off
#: Operators that leave images apart, or whose shapes tell that they do not.
_KNOWN = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "Xor",
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "Dropout", "FusedConv", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearConv",
    "SpaceToDepth",
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    "Concat", "Flatten", "Gather", "Gemm", "MatMul", "Pad", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})
#: They keep every shape, and mix what lies along one axis.
_ALONG_AXIS = frozenset({
    "CumSum", "DequantizeLinear", "Hardmax", "LogSoftmax", "QuantizeLinear", "Softmax", "TopK",
})
#: Operators with a rule of their own: the method of this name in lower case.
_RULES = frozenset({"Expand", "Reshape", "Resize", "ScatterND", "Slice", "Tile", "Upsample"})
# fmt: on


class BatchAxis:
    """One walk over a graph with a fixed batch."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._image = graph.image
        assert self._image.shape is not None
        batch, channels, *size = self._image.shape
        self._batch = int(batch or 0)
        self._open_size = not all(isinstance(d, int) and d for d in size)
        graph.infer_shapes()
        example = [
            d if isinstance(d, int) and d else e for d, e in zip(size, _EXAMPLE_SIZE, strict=True)
        ]
        self._walk = ShapeWalk(graph, (batch, channels, *example))
        #: Value -> its batch axis. Those that do not depend on the image are not in it.
        self._axes: dict[Value, int] = {self._image: 0}
        #: Values computed from shapes, which follow the batch by themselves.
        self._sized: set[Value] = set()
        self._changes: list[str] = []

    def open(self) -> list[str]:
        """Let the graph take any batch; see batch.open_batch."""
        for node in list(self._graph.nodes):
            self._walk.visit(node)
            self._visit(node)
        self._open_ends()
        assert self._image.shape is not None
        rest = describe([d if isinstance(d, int) else None for d in self._image.shape[1:]])
        self._changes.append(f"input {self._image.name}: {self._batch}x{rest} -> {BATCH}x{rest}")
        return self._changes

    # ---- the graph

    def _shape(self, value: Value) -> tuple[int | None, ...]:
        shape = self._walk.shape(value)
        if shape is None:
            raise self._error(f"tensor '{value.name}', whose shape is not known")
        return tuple(d if isinstance(d, int) else None for d in shape)

    def _set_constant(self, node: Node, index: int, values: Array) -> None:
        """Give a node a constant of its own: others may read the old one."""
        base = (node.input(index) or node.outputs[0]).name
        node.set_input(index, self._graph.constant(f"{base}_open", values))

    @staticmethod
    def _error(found: str, node: Node | None = None) -> ModelError:
        where = "" if node is None else f"node '{node.name}' ({node.op}) "
        return ModelError(
            f"the batch cannot be opened: {where}{found}",
            expected="a graph that treats every image by itself",
            fix="export the model with an open batch (YOLOX: tools/export_onnx.py --dynamic), or "
            "leave the batch as it is",
        )

    def _note(self, node: Node, what: str) -> None:
        self._changes.append(f"{node.name}: {what}")

    # ---- the walk

    def _visit(self, node: Node) -> None:
        carries = any(value in self._axes for value in (*node.inputs, *node.captured))
        if node.op in ("Shape", "Size"):
            if carries:
                self._sized.update(node.outputs)
            return
        if not carries:
            if any(value in self._sized for value in node.inputs):
                self._sized.update(node.outputs)
            return
        if node.has_graph:
            raise self._error("has a graph inside", node)
        axis = self._rule(node)(node)
        self._axes.update((value, axis) for value in node.outputs if value.name)

    def _rule(self, node: Node) -> Callable[[Node], int]:
        if node.domain in ("", "ai.onnx") and node.op in _RULES:
            own: Callable[[Node], int] = getattr(self, f"_{node.op.lower()}")
            return own
        if node.op in _ALONG_AXIS:
            return self._along_axis
        if node.op in _KNOWN or node.op.startswith("EfficientNMS"):
            return self._axis_of
        raise self._error("is not known", node)

    def _axis_of(self, node: Node) -> int:
        """Return the batch axis of what a node makes, as onnx infers it."""
        shape = self._inferred(node)
        if shape is None:  # onnx does not know the operator
            return self._first(node)
        if shape.count(BATCH) != 1 and self._batch > 1:
            self._collapse(node)
            shape = self._inferred(node) or ()
        if shape.count(BATCH) != 1:
            before, after = self._shape(node.inputs[0]), self._shape(node.outputs[0])
            raise self._error(
                f"of {describe(before)} to {describe(after)} mixes or drops images", node
            )
        return shape.index(BATCH)

    def _inferred(self, node: Node) -> Shape | None:
        """Return a node's first shape where the batch is a name; None for unknown operators."""
        types: dict[str, tuple[int, Shape | None]] = {}
        known = {}
        for value in node.inputs:
            if value in self._axes:
                self._shape(value)  # must be known
            shape: list[int | str | None] = list(self._walk.shape(value) or ())
            axis = self._own_axis(node, value)
            if value in self._axes or (value in self._sized and shape[axis:][:1] == [self._batch]):
                shape[axis] = BATCH
            types[value.name] = value.elem_type, tuple(shape)
            if value not in self._sized and (values := self._walk.value(value)) is not None:
                known[value.name] = values
        found = infer_node(node.to_proto(), types, known, self._graph.opsets)
        if not found and not has_schema(node.op, node.domain):
            return None
        return found.get(node.outputs[0].name, (0, None))[1] or ()

    def _own_axis(self, node: Node, value: Value) -> int:
        """Return the axis of an input that meets the batch of the others, counted from behind."""
        if value in self._axes:
            return self._axes[value]
        image = next(v for v in node.inputs if v in self._axes)
        own = self._axes[image] - self._rank(image) + len(self._walk.shape(value) or ())
        return own if own >= 0 else self._rank(image)

    def _collapse(self, node: Node) -> None:
        """Collapse identical per-image constants to size 1, which broadcasts to any batch."""
        for index, value in enumerate(node.inputs):
            values, axis = node.constant(index), self._own_axis(node, value)
            if values is None or values.shape[axis:][:1] != (self._batch,):
                continue
            first = values.take([0], axis)
            if not np.array_equal(np.broadcast_to(first, values.shape), values):
                raise self._error("has another constant for each image of the batch", node)
            self._set_constant(node, index, np.ascontiguousarray(first))
            self._note(node, f"{node.op} constant shared by all images")

    def _only(self, node: Node) -> int:
        """Return the batch axis of the first input, the only one that may hold images."""
        first, *others = node.inputs
        if first not in self._axes or any(value in self._axes for value in others):
            raise self._error("takes the image where a constant is expected", node)
        return self._axes[first]

    def _rank(self, value: Value) -> int:
        return len(self._shape(value))

    def _axis(self, node: Node, axis: int, rank: int | None = None) -> int:
        rank = self._rank(node.inputs[0]) if rank is None else rank
        return axis + rank if axis < 0 else axis

    def _list(self, node: Node, name: str, index: int) -> list[int] | None:
        """Return integers that older opsets keep in an attribute and newer ones in an input."""
        given = node.attrs.get(name)
        if given is not None:
            return [int(v) for v in given]
        if node.input(index) is None:
            return None
        values = node.constant(index)
        if values is None:
            raise self._error(f"whose {name} are computed", node)
        return [int(v) for v in values.ravel()]

    # ---- rules: each returns the batch axis of the outputs

    def _first(self, node: Node) -> int:
        if any(self._axes.get(value, 0) != 0 for value in node.inputs):
            raise self._error("with the batch in another axis than the first", node)
        return 0

    def _along_axis(self, node: Node) -> int:
        axis = self._only(node)
        flattens = self._graph.opset < 13 and node.op in ("Softmax", "LogSoftmax", "Hardmax")
        if node.op == "CumSum":
            (along,) = self._list(node, "axis", 1) or [0]
        else:
            quantises = node.op.endswith("Linear")
            along = int(node.attrs.get("axis", 1 if flattens or quantises else -1))
        along = self._axis(node, along)
        if node.op.endswith("Linear") and self._walk.shape(node.inputs[1]) in (None, (), (1,)):
            return axis
        if along == axis or (flattens and along < axis):
            raise self._error("works along the batch", node)
        return axis

    def _slice(self, node: Node) -> int:
        axis = self._only(node)
        starts, ends = self._list(node, "starts", 1), self._list(node, "ends", 2)
        axes, steps = self._list(node, "axes", 3), self._list(node, "steps", 4)
        assert starts is not None and ends is not None
        along = [self._axis(node, a) for a in axes] if axes is not None else list(range(len(ends)))
        if axis not in along:
            return axis
        position = along.index(axis)
        step = 1 if steps is None else steps[position]
        if starts[position] not in (0, -self._batch) or step != 1 or ends[position] < self._batch:
            raise self._error("takes a part of the batch", node)
        if ends[position] < 2**31 - 1:
            given = node.constant(2)
            ends[position] = _INT64_MAX if given is None else int(np.iinfo(given.dtype).max)
            if given is None:
                node.attrs["ends"] = ends
            else:
                self._set_constant(node, 2, np.asarray(ends, given.dtype))
            self._note(node, "Slice takes the whole batch")
        return axis

    def _scatternd(self, node: Node) -> int:
        shape = self._walk.static_shape(node.inputs[0])
        data, _, updates = node.inputs
        held = self._axes.get(data) == self._axes.get(updates) == 0
        # Slice takes its bounds as inputs from opset 10 on.
        if not held or shape is None or self._graph.opset < 10 or not written_channels(node, shape):
            raise self._error("writes to places that name the batch", node)
        self._note(node, scatter_to_concat(self._graph, node, shape))
        return 0

    def _tile(self, node: Node) -> int:
        axis = self._only(node)
        repeats = self._list(node, "repeats", 1)
        if repeats is None or repeats[axis] != 1:
            raise self._error("repeats the batch", node)
        return axis

    def _expand(self, node: Node) -> int:
        rank, target = self._rank(node.inputs[0]), node.constant(1)
        if target is None:
            return self._only(node) + self._rank(node.outputs[0]) - rank
        axis = self._only(node) + max(len(target), rank) - rank
        own = axis - (max(len(target), rank) - len(target))
        if own >= 0 and target[own] != 1:
            if target[own] != self._batch:
                raise self._error("repeats the batch", node)
            wanted = target.copy()
            wanted[own] = 1  # broadcasts to the batch that is there
            self._set_constant(node, 1, wanted)
            self._note(node, "Expand keeps the batch")
        return axis

    def _upsample(self, node: Node) -> int:
        return self._resize(node)

    def _resize(self, node: Node) -> int:
        axis, rank = self._only(node), self._rank(node.inputs[0])
        axes = node.attrs.get("axes")
        along = list(range(rank)) if axes is None else [self._axis(node, a, rank) for a in axes]
        if axis not in along:
            return axis
        own = along.index(axis)
        sizes = node.constant(3)
        scales = node.attrs.get("scales")
        if scales is None and (self._graph.opset >= 10 or node.op == "Upsample"):
            scales = node.constant(2 if self._graph.opset >= 11 else 1)
        if scales is not None and len(scales):
            if scales[own] != 1:
                raise self._error("resizes the batch", node)
        elif sizes is not None:
            self._sizes_to_scales(node, sizes, along, own)
        elif not any(value in self._sized for value in node.inputs):
            raise self._error("whose sizes are computed", node)
        return axis

    def _sizes_to_scales(self, node: Node, sizes: Array, along: Sequence[int], own: int) -> None:
        """Write sizes, which hold the batch, as scales, where these are exact."""
        before = self._shape(node.inputs[0])
        policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
        if sizes[own] != self._batch or policy != "stretch":
            raise self._error("resizes the batch", node)
        if self._open_size:
            raise self._error("whose sizes are fixed while the input's are open", node)
        scales = []
        for axis, size in zip(along, sizes, strict=True):
            source = before[axis]
            assert source is not None  # no shape of a fixed input is open
            scales.append(np.float32(int(size) / source))
            if Fraction(float(scales[-1])) != Fraction(int(size), source):
                raise self._error(f"from {source} to {size}, no ratio that scales express", node)
        # Opset 11 wants the region of interest even where nothing reads it.
        if node.input(1) is None and self._graph.opset < 13:
            self._set_constant(node, 1, np.zeros(0, np.float32))
        self._set_constant(node, 2, np.asarray(scales, np.float32))
        node.inputs = node.inputs[:3]
        self._note(node, "Resize sizes written as scales")

    def _reshape(self, node: Node) -> int:
        axis = self._only(node)
        before, after = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        place = self._place(before[:axis], after)
        if place is None:
            raise self._error(
                f"of {describe(before)} to {describe(after)} mixes or drops images", node
            )
        target = node.constant(1)
        if target is None:
            # A target that is computed names its other sizes too: written down where it can be.
            if self._open_size or None in after:
                return place
            target = np.asarray(after, np.int64)
        wanted = self._target(node, target, axis, place, after)
        if not np.array_equal(wanted, target):
            self._set_constant(node, 1, wanted)
            self._note(node, f"Reshape keeps the batch: {target.tolist()} -> {wanted.tolist()}")
        return place

    def _place(self, outer: Sequence[int | None], after: Sequence[int | None]) -> int | None:
        """Return the axis of a Reshape's result that holds the batch."""
        if None in outer:
            return None
        wanted = int(np.prod([int(d or 1) for d in outer], dtype=np.int64))
        places = []
        passed = 1
        for index, size in enumerate(after):
            if passed == wanted and size == self._batch:
                places.append(index)
            if size is None:
                break
            passed *= size
        same = len(outer)
        return same if same in places else (places[0] if places else None)

    def _target(
        self, node: Node, target: Array, axis: int, place: int, after: Sequence[int | None]
    ) -> Array:
        """Return a Reshape's target for any batch."""
        wanted = target.copy()
        copies = not node.attrs.get("allowzero", 0)
        if copies and axis != place and axis < len(wanted) and wanted[axis] == 0:
            # 0 would copy the batch to another axis.
            wanted[axis] = after[axis]
        if wanted[place] == -1 or (copies and wanted[place] == 0 and axis == place):
            return wanted
        if copies and axis == place:
            wanted[place] = 0
            return wanted
        rest = [i for i, d in enumerate(wanted) if d == -1]
        if rest and (self._open_size or after[rest[0]] is None):
            raise self._error("infers another size than the batch, which is open too", node)
        wanted[rest] = [after[i] for i in rest]
        wanted[place] = -1
        return wanted

    # ---- ends

    def _open_ends(self) -> None:
        """Open input and outputs; infer the shapes anew: no tensor may keep the old batch."""
        for value in (self._image, *self._graph.outputs):
            if self._axes.get(value) != 0:
                raise self._error(f"output '{value.name}' does not have the batch as first axis")
            if value.shape:
                value.shape = (BATCH, *value.shape[1:])
        self._graph.sort()
        self._graph.forget_shapes()
        self._graph.infer_shapes()
        for value in self._graph.values().values():
            axis = self._axes.get(value)
            if axis is None or value.shape is None or axis >= len(value.shape):
                continue
            if isinstance(value.shape[axis], int):
                raise self._error(
                    f"tensor '{value.name}' keeps {value.shape[axis]} images whatever comes in"
                )
