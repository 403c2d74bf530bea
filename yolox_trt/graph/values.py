# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Value and Node: the linked parts of a Graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.inference import Shape, is_small

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


class Value:
    """A tensor of a graph: an input, a constant, or what a node makes.

    Attributes:
        name: unique in the graph; "" marks an input that a node leaves out.
        elem_type: element type as onnx.TensorProto numbers them, 0 where it is not known.
        shape: number, name or None (open, without a name) of each dimension; None where not even
            the rank is known.
        producer: the node that makes it; None for inputs and constants.
        is_output: whether its name must stay: it is an output of the graph, or a graph inside a
            node (If, Loop) reads it.
    """

    def __init__(
        self, name: str = "", elem_type: int = 0, shape: Iterable[Any] | None = None
    ) -> None:
        self.name = name
        self.elem_type = elem_type
        self.shape: Shape | None = None if shape is None else tuple(shape)
        self.producer: Node | None = None
        self.is_output = False
        self._readers: dict[Node, None] = {}
        self._captors: dict[Node, None] = {}
        self._values: Array | None = None
        self._tensor: onnx.TensorProto | None = None
        self._folder: Path | None = None

    @classmethod
    def of_tensor(cls, tensor: onnx.TensorProto, folder: Path | None = None) -> Value:
        """Make a constant; its values are read when they are asked for.

        Args:
            tensor: the initialiser.
            folder: where the file lies in which a large model keeps its weights.
        """
        value = cls(tensor.name)
        value.hold(tensor, folder)
        return value

    def hold(self, tensor: onnx.TensorProto, folder: Path | None) -> None:
        """Be the constant of a tensor; see of_tensor."""
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"constant '{tensor.name}' of size {list(tensor.dims)}")
        self.elem_type, self.shape = tensor.data_type, tuple(tensor.dims)
        self._tensor, self._folder = tensor, folder

    @classmethod
    def of_array(cls, name: str, values: Array) -> Value:
        """Make a constant of an array."""
        onnx_ = require("onnx", purpose="the model's constants")
        value = cls(name, onnx_.helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
        value._values = values
        return value

    def __repr__(self) -> str:
        """Return its name, type and shape."""
        return f"Value({self.name!r}, {self.elem_type}, {self.shape})"

    @property
    def readers(self) -> list[Node]:
        """The nodes that read it, each once."""
        return list(self._readers)

    @property
    def only_reader(self) -> Node | None:
        """Its one reader; None where it has several or none, or leaves the graph."""
        return next(iter(self._readers)) if len(self._readers) == 1 and not self.is_output else None

    @property
    def is_captured(self) -> bool:
        """Whether a graph inside a node reads it by name."""
        return bool(self._captors)

    @property
    def is_constant(self) -> bool:
        """Whether it is a constant."""
        return self._tensor is not None or self._values is not None

    @property
    def values(self) -> Array | None:
        """A constant's values; None for other tensors.

        Raises:
            ModelError: they lie in a file that cannot be read.
        """
        if self._values is None and self._tensor is not None:
            onnx_ = require("onnx", purpose="the model's constants")
            base = str(self._folder or "")
            with ModelError.instead_of(
                Exception,  # of onnx's checker, numpy, or the file system
                f"constant '{self.name}' cannot be read",
                expected="a whole model, with its external weights beside it",
                fix="check that the download is complete",
            ):
                self._values = np.asarray(onnx_.numpy_helper.to_array(self._tensor, base))
        return self._values

    @property
    def small_values(self) -> Array | None:
        """The values of a small constant, which shapes may follow from.

        None for other tensors, and where they cannot be read: that is told where they are needed.
        """
        if not self.is_constant or not is_small(self.static_shape or ()):
            return None
        with contextlib.suppress(ModelError):
            return self.values
        return None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Type of its elements; None where it is not known."""
        if not self.elem_type:
            return None
        onnx_ = require("onnx", purpose="the model's tensors")
        with contextlib.suppress(KeyError):  # a number that onnx does not know
            return np.dtype(onnx_.helper.tensor_dtype_to_np_dtype(self.elem_type))
        return None

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """Its shape where every dimension is a known number."""
        if self.shape is None or not all(isinstance(d, int) and d >= 0 for d in self.shape):
            return None
        return tuple(int(d) for d in self.shape if d is not None)

    @property
    def computed_bytes(self) -> int:
        """Bytes of a constant that was computed here, 0 for those of the model's file."""
        return 0 if self._tensor is not None or self._values is None else self._values.nbytes

    def become_constant(self, values: Array) -> None:
        """Hold values in place of being computed."""
        made = Value.of_array(self.name, values)
        self.elem_type, self.shape, self._values = made.elem_type, made.shape, values
        self.producer = None

    def to_value_info(self) -> onnx.ValueInfoProto:
        """Return name, type and shape as ONNX writes them."""
        helper = require("onnx.helper", purpose="writing the model")
        info: onnx.ValueInfoProto = (
            helper.make_tensor_value_info(self.name, self.elem_type, self.shape)
            if self.elem_type
            else helper.make_empty_tensor_value_info(self.name)
        )
        return info

    def to_tensor(self) -> onnx.TensorProto:
        """Return a constant as an initialiser with its values in it."""
        onnx_ = require("onnx", purpose="the model's constants")
        kept = self._tensor
        if kept is None or kept.data_location == onnx_.TensorProto.EXTERNAL:
            # ascontiguousarray makes vectors of scalars, and TensorRT takes a Q/DQ scale of shape
            # (1,) for a per-channel one: the convolution behind it then runs in FP32.
            values = self.values
            assert values is not None
            whole = np.ascontiguousarray(values).reshape(values.shape)
            tensor: onnx.TensorProto = onnx_.numpy_helper.from_array(whole, self.name)
            return tensor
        copy: onnx.TensorProto = onnx_.TensorProto()
        copy.CopyFrom(kept)
        copy.name = self.name
        return copy


class Node:
    """An operator with its inputs, outputs and attributes.

    Attributes:
        op: ONNX operator.
        name: unique among the nodes of a graph.
        domain: operator domain, "" for ONNX's own.
        attrs: name -> number, text, list of those, onnx.TensorProto or onnx.GraphProto.
    """

    def __init__(
        self,
        op: str,
        name: str,
        inputs: Iterable[Value] = (),
        outputs: Iterable[Value] = (),
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> None:
        self.op, self.name, self.domain = op, name, domain
        self.attrs: dict[str, Any] = dict(attrs or {})
        self._captured: tuple[Value, ...] = ()
        self._attr_types: dict[str, int] = {}
        self._inputs: tuple[Value, ...] = ()
        self._outputs: tuple[Value, ...] = ()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def __repr__(self) -> str:
        """Return its operator and name."""
        return f"Node({self.op}, {self.name!r})"

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What it reads, in the operator's order; an input that is left out has no name."""
        return self._inputs

    @inputs.setter
    def inputs(self, values: Iterable[Value]) -> None:
        for value in self._inputs:
            value._readers.pop(self, None)
        self._inputs = tuple(values)
        for value in self._inputs:
            if value.name:
                value._readers[self] = None

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What it makes, in the operator's order."""
        return self._outputs

    @outputs.setter
    def outputs(self, values: Iterable[Value]) -> None:
        for value in self._outputs:
            if value.producer is self:
                value.producer = None
        self._outputs = tuple(values)
        for value in self._outputs:
            value.producer = self

    @property
    def captured(self) -> tuple[Value, ...]:
        """Values that graphs inside it read by name."""
        return self._captured

    @captured.setter
    def captured(self, values: Iterable[Value]) -> None:
        for value in self._captured:
            value._captors.pop(self, None)
        self._captured = tuple(values)
        for value in self._captured:
            value._captors[self] = None

    def set_input(self, index: int, value: Value) -> None:
        """Read another value in one place."""
        inputs = [*self._inputs, *(Value() for _ in range(index + 1 - len(self._inputs)))]
        inputs[index] = value
        self.inputs = inputs

    def replace_input(self, old: Value, new: Value) -> None:
        """Read `new` wherever `old` was read."""
        self.inputs = [new if value is old else value for value in self._inputs]

    def input(self, index: int) -> Value | None:
        """Return an input; None where it is left out."""
        value = self._inputs[index] if index < len(self._inputs) else None
        return value if value is not None and value.name else None

    def source(self, index: int = 0) -> Node | None:
        """Return the node that makes an input; None for constants and inputs of the graph."""
        value = self.input(index)
        return None if value is None else value.producer

    def constant(self, index: int) -> Array | None:
        """Return the values of a constant input; None where it is left out or computed."""
        value = self.input(index)
        return None if value is None else value.values

    def weights(self, index: int = 1) -> Array | None:
        """Return a constant input as folded() sees it: through Q/DQ and Cast nodes."""
        value = self.input(index)
        return None if value is None else folded(value)

    @property
    def sources(self) -> list[Node]:
        """The nodes that make what it reads."""
        read = (*self._inputs, *self.captured)
        return [value.producer for value in read if value.producer is not None]

    @property
    def has_graph(self) -> bool:
        """Whether it has graphs inside (If, Loop, Scan)."""
        return any(hasattr(value, "node") for value in self.attrs.values())

    @property
    def variables(self) -> list[Value]:
        """Its inputs that are neither left out nor constants."""
        return [value for value in self._inputs if value.name and not value.is_constant]

    @classmethod
    def of_proto(cls, proto: onnx.NodeProto, inputs: list[Value], outputs: list[Value]) -> Node:
        """Make a node with the operator, name and attributes of a protobuf one."""
        onnx_ = require("onnx", purpose="the model's nodes")
        node = cls(proto.op_type, proto.name, inputs, outputs, domain=proto.domain)
        for attribute in proto.attribute:
            value = onnx_.helper.get_attribute_value(attribute)
            if value is None:
                raise ValueError(f"attribute '{attribute.name}' of node '{proto.name}' of no type")
            if isinstance(value, bytes):
                value = value.decode("utf-8", "surrogateescape")
            node.attrs[attribute.name] = list(value) if _is_list(value) else value
            node._attr_types[attribute.name] = attribute.type
        return node

    def to_proto(self) -> onnx.NodeProto:
        """Return the node as protobuf."""
        onnx_ = require("onnx", purpose="the model's nodes")
        proto: onnx.NodeProto = onnx_.NodeProto()
        proto.op_type, proto.name, proto.domain = self.op, self.name, self.domain
        proto.input.extend(value.name for value in self._inputs)
        proto.output.extend(value.name for value in self._outputs)
        for name, value in self.attrs.items():
            if isinstance(value, str):
                value = value.encode("utf-8", "surrogateescape")
            kind = self._attr_types.get(name)
            proto.attribute.append(onnx_.helper.make_attribute(name, value, attr_type=kind))
        return proto


def slice_bounds(node: Node) -> list[tuple[int, int, int, int]] | None:
    """Return (axis, start, end, step) of each axis that a Slice cuts; None where computed."""
    starts, ends, axes, steps = (node.constant(index) for index in range(1, 5))
    given = [value.is_constant for value in node.inputs[1:] if value.name]
    if starts is None or ends is None or not all(given):
        return None
    count = starts.size
    along = range(count) if axes is None else axes.ravel()
    by = [1] * count if steps is None else steps.ravel()
    return [
        (int(a), int(s), int(e), int(b))
        for a, s, e, b in zip(along, starts.ravel(), ends.ravel(), by, strict=True)
    ]


def _is_list(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__len__")


def folded(value: Value, depth: int = 8) -> Array | None:
    """Return what follows from constants through Cast, Identity and Q/DQ nodes; else None.

    FP16 comes out as float32, and so do quantised weights, with their scales.

    Args:
        value: the value.
        depth: nodes in a row that are looked through.
    """
    if value.is_constant:
        values = value.values
        assert values is not None
        return values.astype(np.float32) if values.dtype == np.float16 else values
    node = value.producer
    if node is None or not depth:
        return None
    if node.op in ("Cast", "Identity"):
        inner = folded(node.inputs[0], depth - 1)
        return inner if inner is None or node.op == "Identity" else inner.astype(np.float32)
    if node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    inner, scale = (folded(value, depth - 1) for value in node.inputs[:2])
    if inner is None or scale is None:
        return None
    with ModelError.instead_of(
        (LookupError, TypeError, ValueError),
        f"node '{node.name}' ({node.op}) with {scale.size} scales for a constant of {inner.shape}",
        expected="one, or one for each slice along its axis",
        fix="quantise the float model again: yolox_trt quantize MODEL --images FOLDER -o OUT",
    ):
        shape = [1] * inner.ndim
        if scale.size > 1:
            shape[node.attrs.get("axis", 1)] = scale.size
        scale = scale.reshape(shape)
        with np.errstate(all="ignore"):
            if node.op == "QuantizeLinear":
                return np.clip(np.rint(inner / scale), -128, 127).astype(np.int8)
            return (inner.astype(np.float32) * scale).astype(np.float32)
