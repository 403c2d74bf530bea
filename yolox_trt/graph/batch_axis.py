# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Opens the batch of an ONNX graph: follows the batch axis through every node, node by node.

Works on the protobuf alone: nothing but the constants that name the batch is touched, so names
(calibration caches, layer precisions) stay, and so does what is computed at the old batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.model_graph import infer_shapes
from yolox_trt.graph.names import unused_name
from yolox_trt.graph.normalization import normalized
from yolox_trt.graph.static_shapes import static_shapes

if TYPE_CHECKING:
    import onnx

#: Name of the open dimension.
BATCH = "batch"

_INT64_MAX = 2**63 - 1
#: Rows and columns at which a graph of open size is looked at: what is known of its shapes then is
#: their rank and the batch's place, no size.
_EXAMPLE_SIZE = (64, 96)

#: One value at a time, with the broadcasting of NumPy where there are several inputs.
# fmt: off
_ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "Xor",
})
# fmt: on
#: Images (N, C, ...) apart from one another; only the first input holds images.
# fmt: off
_BY_IMAGE = frozenset({
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "FusedConv", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization",
    "InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearConv", "SpaceToDepth",
})
# fmt: on
#: The first input value by value; the others are scales.
_SCALED = frozenset({"Dropout", "DequantizeLinear", "QuantizeLinear"})
# fmt: off
_REDUCTIONS = frozenset({
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
})
# fmt: on
_ALONG_AXIS = frozenset({"CumSum", "Hardmax", "LogSoftmax", "Softmax", "TopK"})


def open_batch(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with an open batch, and one line for each change.

    Every node is understood: where the batch axis of its inputs is, and of its outputs. Constants
    that name the batch (targets of Reshape and Expand, ends of Slice, sizes of Resize, values that
    are repeated for each image) are written for any batch.

    Args:
        model: a graph with a fixed batch (it is not changed), or one whose batch is open already,
            which is returned as it is.

    Raises:
        ModelError: a node mixes images, drops the batch, or is not understood; it is named.
    """
    return _Opening(model).run()


class _Opening:
    """One walk over a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._onnx = require("onnx", purpose="opening a model's batch")
        self._given = model
        copy = self._onnx.ModelProto()
        copy.CopyFrom(normalized(model))
        if copy.functions:
            copy = self._onnx.inliner.inline_local_functions(copy)
        self._model = copy
        self._graph = copy.graph
        self._opset = max(
            (o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), default=0
        )
        self._tensors = {tensor.name: tensor for tensor in self._graph.initializer}
        self._values: dict[str, npt.NDArray[Any]] = {}
        self._names = {name for n in self._graph.node for name in (*n.input, *n.output)}
        self._names.update(self._tensors, (value.name for value in self._graph.input))
        self._image = self._find_image()
        dims = self._image.type.tensor_type.shape.dim
        self._batch = int(dims[0].dim_value)
        self._open_size = not (dims[2].dim_value and dims[3].dim_value)
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        #: Tensor -> its batch axis. Tensors that do not depend on the image are not in it.
        self._axes: dict[str, int] = {}
        #: Tensors computed from shapes, which follow the batch by themselves.
        self._sized: set[str] = set()
        self._changes: list[str] = []
        #: The nodes so far, those that were added among them.
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> tuple[onnx.ModelProto, list[str]]:
        """See open_batch."""
        if not self._batch:
            return self._given, []
        self._shapes, constants = static_shapes(self._model, self._image.name, _EXAMPLE_SIZE)
        self._values.update(constants)
        self._axes[self._image.name] = 0
        for node in self._graph.node:
            self._visit(node)
            self._nodes.append(node)
        if len(self._nodes) > len(self._graph.node):
            nodes = [self._copy(node) for node in self._nodes]
            del self._graph.node[:]
            self._graph.node.extend(nodes)
        self._open_ends()
        self._check()
        described = "x".join(str(d or "?") for d in self._shape(self._image.name))
        self._changes.append(
            f"input {self._image.name}: {described} -> {BATCH}x{described.partition('x')[2]}"
        )
        return self._model, self._changes

    # ---- the graph

    def _find_image(self) -> Any:
        for value in self._graph.input:
            if value.name not in self._tensors and len(value.type.tensor_type.shape.dim) == 4:
                return value
        raise ModelError(
            "a graph without an image input",
            expected="an input (N, C, H, W)",
            fix="export the model with an NCHW image input",
        )

    def _shape(self, name: str) -> tuple[int | None, ...]:
        try:
            return self._shapes[name]
        except KeyError:
            raise self._error(f"tensor '{name}', whose shape is not known") from None

    def _constant(self, node: Any, index: int) -> npt.NDArray[Any] | None:
        """Return the constant in an input; None where it is missing or computed."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self._values and name in self._tensors:
            self._values[name] = self._onnx.numpy_helper.to_array(self._tensors[name])
        return self._values.get(name)

    def _set_constant(self, node: Any, index: int, values: npt.NDArray[Any]) -> None:
        """Give a node a constant of its own: others may read the old one."""
        base = node.input[index] or node.output[0]
        node.input[index] = self._add_constant(f"{base}_open", values)

    def _add_constant(self, base: str, values: npt.NDArray[Any]) -> str:
        name = self._new_name(base)
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(values, name))
        self._shapes[name], self._values[name] = values.shape, values
        return name

    def _new_name(self, base: str) -> str:
        name = unused_name(base, self._names)
        self._names.add(name)
        return name

    def _copy(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy: onnx.NodeProto = self._onnx.NodeProto()
        copy.CopyFrom(node)
        return copy

    def _attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    @staticmethod
    def _error(found: str, node: Any = None) -> ModelError:
        where = "" if node is None else f"node '{node.name or node.output[0]}' ({node.op_type}) "
        return ModelError(
            f"the batch cannot be opened: {where}{found}",
            expected="a graph that treats every image by itself",
            fix="export the model with an open batch (YOLOX: tools/export_onnx.py --dynamic), or "
            "leave the batch as it is",
        )

    # ---- the walk

    def _visit(self, node: Any) -> None:
        carrying = [name for name in node.input if name in self._axes]
        if node.op_type in ("Shape", "Size"):
            if carrying:
                self._sized.update(node.output)
            return
        if not carrying:
            if any(name in self._sized for name in node.input):
                self._sized.update(node.output)
            return
        if any(a.type == self._onnx.AttributeProto.GRAPH for a in node.attribute):
            raise self._error("has a graph inside", node)
        axis = self._rule(node)(node)
        self._axes.update((name, axis) for name in node.output if name)

    def _rule(self, node: Any) -> Callable[[Any], int]:
        kind = node.op_type
        if kind in _ELEMENTWISE:
            return self._elementwise
        if kind in _BY_IMAGE or kind.startswith("EfficientNMS"):
            return self._by_image
        if kind in _SCALED:
            return self._scaled
        if kind in _REDUCTIONS:
            return self._reduction
        if kind in _ALONG_AXIS:
            return self._along_axis
        rule: Callable[[Any], int] | None = getattr(self, f"_{kind.lower()}", None)
        if node.domain in ("", "ai.onnx") and rule is not None and kind in _RULES:
            return rule
        raise self._error("is not known", node)

    def _only(self, node: Any, index: int = 0) -> int:
        """Return the batch axis of one input, the only one that may hold images."""
        others = [n for i, n in enumerate(node.input) if i != index and n in self._axes]
        if others or node.input[index] not in self._axes:
            raise self._error("takes the image where a constant is expected", node)
        return self._axes[node.input[index]]

    def _rank(self, name: str) -> int:
        return len(self._shape(name))

    def _axis(self, node: Any, value: int, rank: int | None = None) -> int:
        rank = self._rank(node.input[0]) if rank is None else rank
        return value + rank if value < 0 else value

    def _list(self, node: Any, name: str, index: int) -> list[int] | None:
        """Return integers that older opsets keep in an attribute and newer ones in an input."""
        given = self._attribute(node, name)
        if given is not None:
            return [int(v) for v in given]
        if index >= len(node.input) or not node.input[index]:
            return None
        values = self._constant(node, index)
        if values is None:
            raise self._error(f"whose {name} are computed", node)
        return [int(v) for v in values.ravel()]

    # ---- rules: each returns the batch axis of the outputs

    def _elementwise(self, node: Any) -> int:
        inputs = [(i, name) for i, name in enumerate(node.input) if name]
        rank = max(self._rank(name) for _, name in inputs)
        axes = {
            self._axes[name] + rank - self._rank(name) for _, name in inputs if name in self._axes
        }
        if len(axes) != 1:
            raise self._error("joins the batch with another axis", node)
        axis = axes.pop()
        for index, name in inputs:
            own = axis - (rank - self._rank(name))
            if name not in self._axes and name not in self._sized and own >= 0:
                self._share(node, index, own)
        return axis

    def _share(self, node: Any, index: int, axis: int) -> None:
        """Make a constant that is repeated for each image one that all images share."""
        size = self._shape(node.input[index])[axis]
        if size == 1:
            return
        values = self._constant(node, index)
        if values is None or size != self._batch:
            raise self._error("has a value for each image of the batch", node)
        first = values.take([0], axis)
        if not np.array_equal(np.broadcast_to(first, values.shape), values):
            raise self._error("has another constant for each image of the batch", node)
        self._set_constant(node, index, np.ascontiguousarray(first))
        self._note(node, "constant shared by all images")

    def _note(self, node: Any, what: str) -> None:
        self._changes.append(f"{node.name or node.output[0]}: {node.op_type} {what}")

    def _by_image(self, node: Any) -> int:
        if any(self._axes[name] != 0 for name in node.input if name in self._axes):
            raise self._error("with the batch in another axis than the first", node)
        if not node.op_type.startswith("EfficientNMS"):
            self._only(node)
        return 0

    def _scaled(self, node: Any) -> int:
        axis = self._only(node)
        scale = self._shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        along = self._axis(node, int(self._attribute(node, "axis", 1)))
        if axis == along and scale not in ((), (1,)):
            raise self._error("has a scale for each image of the batch", node)
        return axis

    def _along_axis(self, node: Any) -> int:
        axis = self._only(node)
        if node.op_type == "CumSum":
            (along,) = self._list(node, "axis", 1) or [0]
        else:
            flattens = self._opset < 13 and node.op_type != "TopK"
            along = int(self._attribute(node, "axis", 1 if flattens else -1))
        along = self._axis(node, along)
        flattened = self._opset < 13 and node.op_type in ("Softmax", "LogSoftmax", "Hardmax")
        if along == axis or (flattened and along < axis):
            raise self._error("works along the batch", node)
        return axis

    def _reduction(self, node: Any) -> int:
        axis, rank = self._only(node), self._rank(node.input[0])
        if node.op_type.startswith("Arg"):
            reduced = [int(self._attribute(node, "axis", 0))]
        else:
            reduced = self._list(node, "axes", 1) or list(range(rank))
        reduced = [self._axis(node, r, rank) for r in reduced]
        if axis in reduced:
            raise self._error("reduces over the batch", node)
        if self._attribute(node, "keepdims", 1):
            return axis
        return axis - sum(r < axis for r in reduced)

    def _transpose(self, node: Any) -> int:
        rank = self._rank(node.input[0])
        perm = list(self._attribute(node, "perm", range(rank - 1, -1, -1)))
        return perm.index(self._only(node))

    def _concat(self, node: Any) -> int:
        axes = {self._axes[name] for name in node.input if name in self._axes}
        along = self._axis(node, int(self._attribute(node, "axis", 0)))
        if len(axes) != 1 or along in axes:
            raise self._error("joins images of the batch", node)
        if any(name not in self._axes and name not in self._sized for name in node.input):
            raise self._error("joins the image and a constant of the old batch", node)
        return axes.pop()

    def _split(self, node: Any) -> int:
        axis = self._only(node)
        if self._axis(node, int(self._attribute(node, "axis", 0))) == axis:
            raise self._error("divides the batch", node)
        return axis

    def _slice(self, node: Any) -> int:
        axis = self._only(node)
        starts, ends = self._list(node, "starts", 1), self._list(node, "ends", 2)
        axes = self._list(node, "axes", 3)
        steps = self._list(node, "steps", 4)
        assert starts is not None and ends is not None
        along = [self._axis(node, a) for a in axes] if axes is not None else list(range(len(ends)))
        if axis not in along:
            return axis
        position = along.index(axis)
        step = 1 if steps is None else steps[position]
        if starts[position] not in (0, -self._batch) or step != 1 or ends[position] < self._batch:
            raise self._error("takes a part of the batch", node)
        if ends[position] < 2**31 - 1:
            self._slice_to_the_end(node, ends, position)
        return axis

    def _slice_to_the_end(self, node: Any, ends: list[int], position: int) -> None:
        for attribute in node.attribute:
            if attribute.name == "ends":
                attribute.ints[position] = _INT64_MAX
        if len(node.input) > 2:
            given = self._constant(node, 2)
            assert given is not None
            ends[position] = int(np.iinfo(given.dtype).max)
            self._set_constant(node, 2, np.asarray(ends, given.dtype))
        self._note(node, "takes the whole batch")

    def _gather(self, node: Any) -> int:
        axis = self._only(node)
        along = self._axis(node, int(self._attribute(node, "axis", 0)))
        if along == axis:
            raise self._error("picks images of the batch", node)
        return axis if along > axis else axis + self._rank(node.input[1]) - 1

    def _scatternd(self, node: Any) -> int:
        """Write `x[..., first:last] = y`, as older YOLOX decode, as a Concat of channels."""
        data, updates = node.input[0], node.input[2]
        shape = self._shape(data)
        positions = self._constant(node, 1)
        reduction = self._attribute(node, "reduction", b"none")
        if (
            self._axes.get(data) != 0
            or self._axes.get(updates) != 0
            or positions is None
            or None in shape
            or reduction != b"none"
            or self._opset < 10
        ):
            raise self._error("writes to places that name the batch", node)
        rank, channels = len(shape), int(shape[-1] or 0)
        first = int(positions.reshape(-1, positions.shape[-1])[0, -1]) if positions.size else 0
        last = first + (positions.shape[-2] if positions.ndim == rank + 1 else 0)
        # Every image and place, the channels first to last: an index names all axes.
        places = [np.arange(int(size or 0)) for size in shape[:-1]] + [np.arange(first, last)]
        wanted = np.stack(np.meshgrid(*places, indexing="ij"), -1)
        if not np.array_equal(positions, wanted):
            raise self._error("writes to places that name the batch", node)
        parts = []
        for start, end in ((0, first), (last, channels)):
            if start < end:
                parts.append(self._add_slice(node, data, start, end, rank - 1))
        parts.insert(1 if first else 0, updates)
        del node.input[:]
        node.input.extend(parts)
        del node.attribute[:]
        node.op_type = "Concat"
        node.attribute.append(self._onnx.helper.make_attribute("axis", rank - 1))
        self._note(node, f"in place of ScatterND into channels {first} to {last}")
        return 0

    def _add_slice(self, node: Any, data: str, start: int, end: int, axis: int) -> str:
        output = self._new_name(f"{node.output[0]}_part")
        limits = [
            self._add_constant(f"{output}_{name}", np.asarray([value], np.int64))
            for name, value in (("start", start), ("end", end), ("axis", axis))
        ]
        made = self._onnx.helper.make_node("Slice", [data, *limits], [output], output)
        self._nodes.append(made)
        self._axes[output] = self._axes[data]
        self._shapes[output] = (*self._shape(data)[:-1], end - start)
        return output

    def _squeeze(self, node: Any) -> int:
        axis, rank = self._only(node), self._rank(node.input[0])
        axes = self._list(node, "axes", 1)
        if axes is None:
            raise self._error("without axes drops a batch of 1", node)
        axes = [self._axis(node, a, rank) for a in axes]
        if axis in axes:
            raise self._error("drops the batch", node)
        return axis - sum(a < axis for a in axes)

    def _unsqueeze(self, node: Any) -> int:
        axis, axes = self._only(node), self._list(node, "axes", 1) or []
        rank = self._rank(node.input[0]) + len(axes)
        added = {self._axis(node, a, rank) for a in axes}
        return [i for i in range(rank) if i not in added][axis]

    def _flatten(self, node: Any) -> int:
        axis = self._only(node)
        shape = self._shape(node.input[0])
        along = self._axis(node, int(self._attribute(node, "axis", 1)))
        if along <= axis or any(d != 1 for i, d in enumerate(shape[:along]) if i != axis):
            raise self._error("joins the batch with another axis", node)
        return 0

    def _pad(self, node: Any) -> int:
        axis, rank = self._only(node), self._rank(node.input[0])
        pads = self._list(node, "pads", 1)
        axes = self._list(node, "axes", 3) if self._opset >= 18 else None
        along = list(range(rank)) if axes is None else [self._axis(node, a, rank) for a in axes]
        if pads is None or (axis in along and any(pads[along.index(axis) :: len(along)])):
            raise self._error("pads the batch", node)
        return axis

    def _tile(self, node: Any) -> int:
        axis = self._only(node)
        repeats = self._list(node, "repeats", 1)
        if repeats is None or repeats[axis] != 1:
            raise self._error("repeats the batch", node)
        return axis

    def _expand(self, node: Any) -> int:
        rank = self._rank(node.input[0])
        target = self._constant(node, 1)
        if target is None:
            return self._only(node) + self._rank(node.output[0]) - rank
        axis = self._only(node) + max(len(target), rank) - rank
        own = axis - (max(len(target), rank) - len(target))
        if own >= 0 and target[own] != 1:
            if target[own] != self._batch:
                raise self._error("repeats the batch", node)
            wanted = target.copy()
            wanted[own] = 1  # broadcasts to the batch that is there
            self._set_constant(node, 1, wanted)
            self._note(node, "keeps the batch")
        return axis

    def _matmul(self, node: Any) -> int:
        left, right = node.input[0], node.input[1]
        rank = max(self._rank(left), self._rank(right))
        axes = set()
        for name in (left, right):
            if name not in self._axes:
                continue
            axis, own = self._axes[name], self._rank(name)
            last = own - 1 if name == left else own - 2
            if own < 2 or axis >= last:
                raise self._error("sums over the batch", node)
            axes.add(axis + rank - own)
        if len(axes) != 1:
            raise self._error("joins images of the batch", node)
        axis = axes.pop()
        for index, name in enumerate((left, right)):
            own = axis - (rank - self._rank(name))
            if name not in self._axes and axis < rank - 2 and own >= 0:
                self._share(node, index, own)
        return axis

    def _gemm(self, node: Any) -> int:
        if self._only(node) != 0 or self._attribute(node, "transA", 0):
            raise self._error("sums over the batch", node)
        if len(node.input) > 2 and node.input[2] and self._rank(node.input[2]) == 2:
            self._share(node, 2, 0)
        return 0

    def _upsample(self, node: Any) -> int:
        return self._resize(node)

    def _resize(self, node: Any) -> int:
        axis, rank = self._only(node), self._rank(node.input[0])
        axes = self._attribute(node, "axes")
        along = list(range(rank)) if axes is None else [self._axis(node, a, rank) for a in axes]
        if axis not in along:
            return axis
        own = along.index(axis)
        sizes = self._constant(node, 3)
        scales = self._attribute(node, "scales")
        if scales is None and (self._opset >= 10 or node.op_type == "Upsample"):
            scales = self._constant(node, 2 if self._opset >= 11 else 1)
        if scales is not None and len(scales):
            if scales[own] != 1:
                raise self._error("resizes the batch", node)
        elif sizes is not None:
            self._sizes_to_scales(node, sizes, along, own)
        elif not any(name in self._sized for name in node.input):
            raise self._error("whose sizes are computed", node)
        return axis

    def _sizes_to_scales(
        self, node: Any, sizes: npt.NDArray[Any], along: Sequence[int], own: int
    ) -> None:
        """Write sizes, which hold the batch, as scales, where these are exact."""
        before = self._shape(node.input[0])
        policy = self._attribute(node, "keep_aspect_ratio_policy", b"stretch")
        if sizes[own] != self._batch or policy != b"stretch":
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
        if not node.input[1] and self._opset < 13:
            self._set_constant(node, 1, np.zeros(0, np.float32))
        self._set_constant(node, 2, np.asarray(scales, np.float32))
        del node.input[3:]
        self._note(node, "sizes written as scales")

    def _reshape(self, node: Any) -> int:
        axis = self._only(node)
        before, after = self._shape(node.input[0]), self._shape(node.output[0])
        place = self._place(before[:axis], after)
        if place is None:
            raise self._error(f"of {_text(before)} to {_text(after)} mixes or drops images", node)
        target = self._constant(node, 1)
        if target is None:
            # A target that is computed names its other sizes too: written down where it can be.
            if self._open_size or None in after:
                return place
            target = np.asarray(after, np.int64)
        wanted = self._target(node, target, axis, place, after)
        if not np.array_equal(wanted, target):
            self._set_constant(node, 1, wanted)
            self._note(node, f"keeps the batch: {target.tolist()} -> {wanted.tolist()}")
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
        self,
        node: Any,
        target: npt.NDArray[Any],
        axis: int,
        place: int,
        after: Sequence[int | None],
    ) -> npt.NDArray[Any]:
        """Return a Reshape's target for any batch."""
        wanted = target.copy()
        copies = not self._attribute(node, "allowzero", 0)
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
        for value in self._graph.output:
            if self._axes.get(value.name) != 0:
                raise self._error(f"output '{value.name}' does not have the batch as first axis")
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                if dims:
                    dims[0].Clear()
                    dims[0].dim_param = BATCH
        first = self._image.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_param = BATCH
        self._drop_unused()

    def _drop_unused(self) -> None:
        """Remove what computed or held the old constants."""
        graph = self._graph
        needed = {value.name for value in graph.output}
        kept = []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        if len(kept) < len(graph.node):
            kept.reverse()
            del graph.node[:]
            graph.node.extend(kept)
        if any(tensor.name not in needed for tensor in graph.initializer):
            tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
            del graph.initializer[:]
            graph.initializer.extend(tensors)

    def _check(self) -> None:
        """Infer the shapes again: the batch must be open wherever it can be seen."""
        infer_shapes(self._model, in_place=True)
        for value in (*self._graph.value_info, *self._graph.output):
            axis = self._axes.get(value.name)
            if axis is None or not value.type.tensor_type.HasField("shape"):
                continue
            dims = value.type.tensor_type.shape.dim
            if axis < len(dims) and dims[axis].HasField("dim_value"):
                raise self._error(
                    f"tensor '{value.name}' keeps {dims[axis].dim_value} images whatever comes in"
                )


#: Operators with a rule of their own: the method of this name in lower case.
# fmt: off
_RULES = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "Gemm", "MatMul", "Pad", "Reshape", "Resize",
    "ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample",
})
# fmt: on


def _text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape)
