# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ModelGraph: an ONNX model as an editable graph with inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.engines.engine_file import refuse_engine
from yolox_trt.graph.names import unused_name
from yolox_trt.graph.normalization import normalized

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

#: Lowest opset that the passes write: Clip takes its bounds as inputs and Resize its present form
#: from here on.
MIN_OPSET = 11

#: Constants up to this many elements take part in shape inference (axes, sizes, scales).
_SMALL = 64

#: What may stand between a constant and the node that computes with it.
_WEIGHT_CHAIN = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})

Shape = tuple[int | None, ...]


def load_model(model: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Load an ONNX model with its weights, in the form that the compiler works on.

    A loaded model is returned as it is where it has that form.

    Raises:
        ModelError: no such file, or not an ONNX model.
    """
    onnx_ = require("onnx", purpose="the model compiler")
    if not isinstance(model, str | Path):
        return normalized(model)
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"no file '{path}'", expected="an ONNX model", fix="check the path")
    refuse_engine(path)
    try:
        loaded: onnx.ModelProto = onnx_.load(str(path))
    except Exception as error:  # protobuf's DecodeError, whose class differs between versions
        raise ModelError(
            f"'{path}' cannot be read as ONNX ({error})",
            expected="an ONNX file, with its external weights beside it",
            fix="check that the download is complete",
        ) from error
    if not loaded.graph.node:
        raise ModelError(f"'{path}' holds no graph", expected="an ONNX file", fix="check the file")
    return normalized(loaded)


def infer_shapes(model: onnx.ModelProto, *, in_place: bool = False) -> onnx.ModelProto:
    """Return a copy whose value_info holds freshly inferred shapes.

    Shapes that the exporter noted are dropped first: they are stale after an edit.

    Args:
        model: the model.
        in_place: write into the given model and return it.

    Raises:
        ModelError: the shapes contradict each other.
    """
    onnx_ = require("onnx", purpose="the model compiler")
    try:
        inferred = onnx_.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except Exception as error:  # onnx raises its own C++ errors, without a common base
        raise ModelError(
            f"a graph whose shapes cannot be inferred ({error})",
            expected="consistent shapes",
            fix="export the model again, or fix its input size (`--input-size HxW`)",
        ) from error
    if not in_place:
        copy = onnx_.ModelProto()
        copy.CopyFrom(model)
        model = copy
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large initialisers are inputs, and without value_info.

    Shape inference and the checker serialise the model; without the weights they are fast.
    """
    onnx_ = require("onnx", purpose="the model compiler")
    light = onnx_.ModelProto()
    for field in ("ir_version", "opset_import", "functions", "producer_name"):
        value = getattr(model, field)
        if hasattr(value, "extend"):
            getattr(light, field).extend(value)
        else:
            setattr(light, field, value)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    declared = {value.name for value in model.graph.input}
    graph.input.extend(model.graph.input)
    for initializer in model.graph.initializer:
        if math.prod(initializer.dims) <= _SMALL:
            graph.initializer.append(initializer)
        elif initializer.name not in declared:
            graph.input.append(
                onnx_.helper.make_tensor_value_info(
                    initializer.name, initializer.data_type, list(initializer.dims)
                )
            )
    return light


def drop_unused_nodes(model: onnx.ModelProto) -> None:
    """Remove, in place, the nodes that no graph output depends on."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))


class ModelGraph:
    """An ONNX model under surgery: an onnx-graphsurgeon graph, its metadata, and helpers.

    Every node has a unique name, Constant nodes are constants, and tensors have the shapes that
    onnx infers. Nodes are in topological order after construction.

    Attributes:
        graph: the graph; passes edit it in place.
        metadata: ONNX metadata_props, written back by to_model().
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Import a model (it is not changed).

        Raises:
            ModelError: its shapes cannot be inferred, or its opset is too old to convert.
        """
        self._onnx = require("onnx", purpose="the model compiler")
        gs_ = require("onnx_graphsurgeon", purpose="the model compiler")
        self._gs = gs_
        model = normalized(model)
        if model.functions:
            model = self._onnx.inliner.inline_local_functions(model)
        model = infer_shapes(self._upgrade(model))
        self.metadata: dict[str, str] = {p.key: p.value for p in model.metadata_props}
        self._ir_version = model.ir_version
        self.graph: gs.Graph = gs_.import_onnx(model)
        self._constants_from_nodes()
        self._name_nodes()
        self.graph.toposort()

    @property
    def nodes(self) -> list[gs.Node]:
        """Nodes in topological order at the last toposort()."""
        return list(self.graph.nodes)

    @property
    def image(self) -> gs.Variable:
        """The image input: the only input, or the first of rank 4.

        Raises:
            ModelError: no input of rank 4.
        """
        for tensor in self.graph.inputs:
            if tensor.shape is not None and len(tensor.shape) == 4:
                return tensor
        raise ModelError(
            "a graph without an image input",
            expected="an input (N, C, H, W)",
            fix="export the model with an NCHW image input",
        )

    def to_model(self) -> onnx.ModelProto:
        """Export, without unused nodes and constants, with shapes inferred.

        Raises:
            ModelError: the graph is not a valid ONNX model (a defect in a pass).
        """
        self.graph.cleanup(remove_unused_graph_inputs=False).toposort()
        model: onnx.ModelProto = self._gs.export_onnx(self.graph)
        model.ir_version = max(self._ir_version, model.ir_version)
        del model.metadata_props[:]
        for key, value in self.metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        model = infer_shapes(model, in_place=True)
        try:
            self._onnx.checker.check_model(_without_weights(model))
        except self._onnx.checker.ValidationError as error:
            raise ModelError(
                f"surgery wrote an invalid graph ({error})",
                expected="a valid ONNX model",
                fix="leave the last pass out (`--skip PASS`) and report it with the model",
            ) from error
        return model

    def toposort(self) -> None:
        """Drop unused nodes, then sort what is left."""
        self.graph.cleanup(remove_unused_graph_inputs=False).toposort()

    @staticmethod
    def producer(tensor: gs.Tensor) -> gs.Node | None:
        """Return the node that makes a tensor, None for inputs and constants."""
        return tensor.inputs[0] if tensor.inputs else None

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is a graph output."""
        return any(tensor is output for output in self.graph.outputs)

    def single_consumer(self, tensor: gs.Tensor) -> gs.Node | None:
        """Return a tensor's only reader; None where it has several or leaves the graph."""
        readers = {id(node): node for node in tensor.outputs}
        if len(readers) != 1 or self.is_output(tensor):
            return None
        return next(iter(readers.values()))

    @staticmethod
    def constant_value(tensor: gs.Tensor) -> npt.NDArray[Any] | None:
        """Return a constant's values, None for variables."""
        values = getattr(tensor, "values", None)
        return None if values is None else np.asarray(values)

    def input_constant(self, node: gs.Node, index: int) -> npt.NDArray[Any] | None:
        """Return the constant in a node's input, None where it is missing or computed."""
        if index >= len(node.inputs) or not node.inputs[index].name:
            return None
        return self.constant_value(node.inputs[index])

    def weights(self, node: gs.Node, index: int = 1) -> npt.NDArray[Any] | None:
        """Return the constant that a node reads, through Q/DQ nodes; its values may be quantised.

        For shapes and counts, not for arithmetic: scales are not applied.
        """
        if index >= len(node.inputs):
            return None
        tensor = node.inputs[index]
        producer = self.producer(tensor)
        while producer is not None and producer.op in _WEIGHT_CHAIN:
            tensor = producer.inputs[0]
            producer = self.producer(tensor)
        return self.constant_value(tensor)

    @staticmethod
    def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return a tensor's shape if every dimension is a known number."""
        shape = tensor.shape
        if shape is None or not all(isinstance(d, int) and d >= 0 for d in shape):
            return None
        return tuple(int(d) for d in shape)

    def unique_name(self, base: str) -> str:
        """Return `base`, or `base` with a number where the graph has that name already."""
        taken = self.graph.tensors().keys() | {node.name for node in self.graph.nodes}
        return unused_name(base, taken)

    def constant(self, name: str, values: npt.ArrayLike, dtype: Any = None) -> gs.Constant:
        """Make a constant with a unique name."""
        array = np.ascontiguousarray(np.asarray(values, dtype))
        return self._gs.Constant(self.unique_name(name), array)

    def variable(
        self, name: str, dtype: Any = np.float32, shape: Sequence[Any] | None = None
    ) -> gs.Variable:
        """Make a variable with a unique name."""
        return self._gs.Variable(self.unique_name(name), dtype=dtype, shape=shape)

    def empty(self) -> gs.Variable:
        """Return the marker of an omitted input."""
        return self._gs.Variable.empty()

    def add_node(
        self,
        op: str,
        name: str,
        inputs: Iterable[gs.Tensor],
        attrs: Mapping[str, Any] | None = None,
        *,
        output: gs.Tensor | None = None,
        dtype: Any = np.float32,
        shape: Sequence[Any] | None = None,
        domain: str | None = None,
    ) -> gs.Tensor:
        """Append a node with one output and return that output.

        Args:
            op: ONNX operator.
            name: the node's name, made unique; its new output takes it too.
            inputs: input tensors.
            attrs: attributes.
            output: tensor to write instead of a new one.
            dtype: of the new output.
            shape: of the new output.
            domain: operator domain, None for ONNX's own.
        """
        if output is None:
            output = self.variable(f"{name}_out", dtype, shape)
        node = self._gs.Node(
            op, self.unique_name(name), dict(attrs or {}), list(inputs), [output], domain
        )
        self.graph.nodes.append(node)
        return output

    def add_plugin(
        self,
        op: str,
        inputs: Iterable[gs.Tensor],
        outputs: Iterable[gs.Tensor],
        attrs: Mapping[str, Any],
        domain: str,
    ) -> None:
        """Append a node of another operator domain with outputs of its own."""
        node = self._gs.Node(
            op, self.unique_name(op), dict(attrs), list(inputs), list(outputs), domain
        )
        self.graph.nodes.append(node)
        domains = list(self.graph.import_domains or [])
        if all(d.domain != domain for d in domains):
            domains.append(self._onnx.helper.make_opsetid(domain, 1))
        self.graph.import_domains = domains

    def replace_tensor(self, old: gs.Tensor, new: gs.Tensor) -> gs.Tensor:
        """Make every reader of `old` read `new`; a graph output keeps its name.

        `old` is left without readers, so that cleanup drops its producer.

        Returns:
            The tensor that now carries the values: `new`, or `old` where that is a graph output
            (it then comes from `new`'s producer).
        """
        for node in list({id(n): n for n in old.outputs}.values()):
            node.inputs = [new if t is old else t for t in node.inputs]
        if not self.is_output(old):
            return new
        previous = self.producer(old)
        if previous is not None:
            previous.outputs = [t for t in previous.outputs if t is not old]
        producer = self.producer(new)
        if producer is None or self.is_output(new):
            # An input, a constant or another output cannot take a second name.
            self.add_node("Identity", f"{old.name}_identity", [new], output=old)
            return new
        readers = list({id(n): n for n in new.outputs}.values())
        producer.outputs = [old if t is new else t for t in producer.outputs]
        for node in readers:
            node.inputs = [old if t is new else t for t in node.inputs]
        return old

    def _upgrade(self, model: onnx.ModelProto) -> onnx.ModelProto:
        opset = max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        )
        if opset >= MIN_OPSET:
            return model
        try:
            converted: onnx.ModelProto = self._onnx.version_converter.convert_version(
                model, MIN_OPSET
            )
        except Exception as error:  # the converter raises RuntimeError and its own errors
            raise ModelError(
                f"opset {opset}, which onnx cannot convert to {MIN_OPSET} ({error})",
                expected=f"opset {MIN_OPSET} or newer",
                fix=f"export the model with --opset {MIN_OPSET}",
            ) from error
        for entry in model.metadata_props:
            if entry.key not in {p.key for p in converted.metadata_props}:
                converted.metadata_props.append(entry)
        return converted

    def _constants_from_nodes(self) -> None:
        for node in list(self.graph.nodes):
            if node.op != "Constant" or not node.outputs:
                continue
            value = next(iter(node.attrs.values()))
            array = value.values if hasattr(value, "values") else np.asarray(value)
            if "value_float" in node.attrs or "value_floats" in node.attrs:
                array = np.asarray(array, np.float32)
            output = node.outputs[0]
            if self.is_output(output):
                continue
            node.outputs.clear()
            output.to_constant(np.asarray(array))
        self.graph.nodes = [n for n in self.graph.nodes if n.op != "Constant" or n.outputs]

    def _name_nodes(self) -> None:
        seen: set[str] = set()
        for i, node in enumerate(self.graph.nodes):
            name = node.name or f"{node.op}_{i}"
            while name in seen:
                name = f"{name}_{i}"
            node.name = name
            seen.add(name)
