# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Graph: producers, consumers and constants of an ONNX model that is being rewritten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.names import unused_name
from yolox_trt.graph.normalization import normalized

#: Layers whose inputs TensorRT runs in INT8, with weights of their own.
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """A copy of a model with look-ups by tensor name. Nodes stay in topological order.

    Attributes:
        model: the ModelProto; edit its nodes through the methods here, then call `finish`.
    """

    def __init__(self, model: onnx.ModelProto | str | Path) -> None:
        """Copy a model, or load it from a file.

        Raises:
            ModelError: the file is not an ONNX model.
        """
        if isinstance(model, onnx.ModelProto):
            self.model = onnx.ModelProto()
            self.model.CopyFrom(normalized(model))
        else:
            try:
                self.model = normalized(onnx.load(str(model)))
            except Exception as error:  # protobuf raises its own types
                raise ModelError(
                    f"'{model}' that cannot be read as ONNX ({error})", expected="an ONNX model"
                ) from error
        self._initializers = {i.name: i for i in self.model.graph.initializer}
        self._constants = {
            node.output[0]: node for node in self.nodes if node.op_type == "Constant"
        }
        self._names = {name for node in self.nodes for name in (*node.input, *node.output)}
        self._names.update(self._initializers, self.inputs, self.outputs)
        self.reindex()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Nodes in topological order."""
        return list(self.model.graph.node)

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs that are not initializers."""
        constant = {i.name for i in self.model.graph.initializer}
        return [i.name for i in self.model.graph.input if i.name not in constant]

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return [o.name for o in self.model.graph.output]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def reindex(self) -> None:
        """Find producers and consumers again, after nodes were edited."""
        self.producer: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in node.input:
                self.consumers[name].append(node)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return a constant tensor's values, or None where the tensor is computed."""
        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        node = self._constants.get(name)
        if node is not None:
            for item in node.attribute:
                if item.name == "value":
                    return numpy_helper.to_array(item.t)
        return None

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer or the output of a Constant node."""
        return name in self._initializers or name in self._constants

    def unique(self, name: str) -> str:
        """Return a tensor or node name that is not in use, `name` itself if it can be."""
        name = unused_name(name, self._names)
        self._names.add(name)
        return name

    def add_constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add an initializer and return its name, made unique."""
        name = self.unique(name)
        # ascontiguousarray makes vectors of scalars, and TensorRT takes a Q/DQ scale of shape (1,)
        # for a per-channel one: the convolution behind it then runs in FP32.
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        self.model.graph.initializer.append(tensor)
        self._initializers[name] = self.model.graph.initializer[-1]
        return name

    def set_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        """Replace all nodes by a list in topological order."""
        copies = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        self._constants = {n.output[0]: n for n in self.nodes if n.op_type == "Constant"}
        self.reindex()

    def weighted_nodes(self) -> Iterator[onnx.NodeProto]:
        """Yield the layers with constant weights (through a DequantizeLinear, too) at input 1."""
        for node in self.model.graph.node:
            if node.op_type in WEIGHTED_OPS and self.weights(node) is not None:
                yield node

    def weights(self, node: onnx.NodeProto) -> npt.NDArray[np.float32] | None:
        """Return a layer's weights as float32, seen through Q/DQ and Cast nodes; else None."""
        return self.folded(node.input[1]) if len(node.input) > 1 else None

    def folded(self, name: str) -> npt.NDArray[Any] | None:
        """Return a tensor that follows from constants through Cast and Q/DQ nodes; else None."""
        value = self.constant(name)
        if value is not None:
            return value.astype(np.float32) if value.dtype == np.float16 else value
        node = self.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Cast":
            inner = self.folded(node.input[0])
            return None if inner is None else inner.astype(np.float32)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        inner, scale = self.folded(node.input[0]), self.folded(node.input[1])
        if inner is None or scale is None:
            return None
        shape = [1] * inner.ndim
        if scale.size > 1:
            shape[attribute(node, "axis", 1)] = scale.size
        scale = scale.reshape(shape)
        if node.op_type == "QuantizeLinear":
            return np.clip(np.rint(inner / scale), -128, 127).astype(np.int8)
        return (inner.astype(np.float32) * scale).astype(np.float32)

    def finish(self) -> onnx.ModelProto:
        """Drop what nothing reads any more, check, and return the model.

        Raises:
            ModelError: the rewritten graph is not valid ONNX (a defect of the rewrite).
        """
        graph = self.model.graph
        live = set(self.outputs)
        nodes = []
        for node in reversed(graph.node):
            # Casts of weights that a rewrite replaced have no reader any more.
            if live.intersection(node.output):
                nodes.append(node)
                live.update(node.input)
        if len(nodes) != len(graph.node):
            self.set_nodes(nodes[::-1])
        kept = [i for i in graph.initializer if i.name in live]
        if len(kept) != len(graph.initializer):
            copies = [onnx.TensorProto.FromString(i.SerializeToString()) for i in kept]
            del graph.initializer[:]
            graph.initializer.extend(copies)
        self._initializers = {i.name: i for i in graph.initializer}
        known = {name for node in graph.node for name in node.output}
        infos = [v for v in graph.value_info if v.name in known]
        if len(infos) != len(graph.value_info):
            copies_v = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in infos]
            del graph.value_info[:]
            graph.value_info.extend(copies_v)
        try:
            onnx.checker.check_model(self.model)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"a rewritten graph that ONNX refuses ({error})") from error
        return self.model


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return a node's attribute as a Python value, or the default where it is not set."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def with_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Return the model in an opset of at least `least`, converted where it is older.

    Metadata is carried over. Models with nodes of other domains (EfficientNMS_TRT) are refused by
    ONNX's converter; remove those first.

    Raises:
        ModelError: ONNX's version converter cannot convert it.
    """
    model = normalized(model)
    current = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if current >= least:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, least)
    except Exception as error:
        raise ModelError(
            f"a model of opset {current} that ONNX cannot convert to {least} ({error})",
            expected=f"opset {least} or newer (per-channel Q/DQ needs 13)",
            fix="export the model again with a newer opset, or yolox_trt optimize MODEL first",
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted
