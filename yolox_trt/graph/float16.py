# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FP16 form of an ONNX graph, for TensorRT versions that take precisions from the graph.

ONNX Runtime's converter keeps chosen nodes in FP32 as well, but writes a graph with two nodes of
one name where two such nodes read the same tensor (seen in onnxruntime 1.31), as a decoded head's
do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.names import unused_name
from yolox_trt.graph.normalization import normalized

if TYPE_CHECKING:
    import onnx

#: Counts in the fingerprint of engines built from a converted graph: raise it when the same graph
#: is converted in another way.
REVISION = 1

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Inputs that stay FP32 whatever the node computes in: Resize's roi and scales.
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
#: What makes a tensor of a type of its own, whatever it reads.
_GENERATORS = frozenset({
    "Bernoulli", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FP16_MAX = float(np.finfo(np.float16).max)


def computes_in_fp16(model: onnx.ModelProto) -> bool:
    """Tell whether a convolution gives FP16 (weights that are only stored in FP16 do not count)."""
    import onnx

    outputs = {
        name for node in model.graph.node if node.op_type in _CONVOLUTIONS for name in node.output
    }
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return any(
        value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        for value in (*inferred.value_info, *inferred.output)
        if value.name in outputs
    )


def nodes_before_heads(model: onnx.ModelProto) -> set[int]:
    """Return the indices of the nodes that are convolutions or lead to one.

    The others decode the head. In FP16, box coordinates above 1024 pixels have steps of a whole
    pixel; those nodes are few and cheap, so they stay in FP32.
    """
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(model.graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    chosen: set[int] = set()
    # ONNX graphs are sorted: a reader comes after what it reads.
    for index in range(len(model.graph.node) - 1, -1, -1):
        node = model.graph.node[index]
        later = (reader for name in node.output for reader in readers.get(name, ()))
        if node.op_type in _CONVOLUTIONS or any(reader in chosen for reader in later):
            chosen.add(index)
    return chosen


def quantized_nodes(model: onnx.ModelProto) -> set[int]:
    """Return the indices of Q/DQ nodes and of the convolutions that read a DequantizeLinear.

    These compute in INT8 and accumulate in 32 bits whatever the type around them, and their
    scales are FP32: small ones would vanish in FP16.
    """
    dequantized = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    return {
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type in _QUANTIZERS
        or (node.op_type in _CONVOLUTIONS and not dequantized.isdisjoint(node.input))
    }


def to_fp16(
    model: onnx.ModelProto, *, fp16_input: bool = False, fp16_outputs: bool = False
) -> onnx.ModelProto:
    """Return the graph with everything up to the last convolutions in FP16, INT8 as it is.

    Args:
        model: an FP32 graph; it is not changed. Its weights must be in the file.
        fp16_input: the image input becomes FP16 (else it is cast in the graph).
        fp16_outputs: the outputs become FP16 (else they are FP32).

    Raises:
        ModelError: the graph has branches (If, Loop) or a weight that FP16 cannot hold, or is not
            valid.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(normalized(model))
    _check(copy)
    inferred = onnx.shape_inference.infer_shapes(copy)
    floats = {
        value.name
        for value in (
            *inferred.graph.value_info,
            *inferred.graph.input,
            *inferred.graph.output,
        )
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    floats |= {
        tensor.name
        for tensor in copy.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    generators = {i for i, node in enumerate(copy.graph.node) if node.op_type in _GENERATORS}
    half_nodes = nodes_before_heads(copy) - quantized_nodes(copy) - generators
    rewriter = _Rewriter(copy, floats, half_nodes)
    rewriter.rewrite(fp16_input=fp16_input, fp16_outputs=fp16_outputs)
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"a graph that is not valid in FP16 ({error})",
            expected="a graph that onnx's checker takes in FP32",
            fix="yolox_trt optimize MODEL, or build with --precision fp32",
        ) from error
    return copy


def _check(model: onnx.ModelProto) -> None:
    import onnx

    for node in model.graph.node:
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            raise ModelError(
                f"node {node.name} ({node.op_type}) with a graph inside",
                expected="a graph without branches",
                fix="yolox_trt optimize MODEL, or build with --precision fp32",
            )


class _Rewriter:
    """Rewrites the nodes of one graph in place, with as few casts as tensors that need one."""

    def __init__(self, model: onnx.ModelProto, floats: set[str], half_nodes: set[int]) -> None:
        self._graph = model.graph
        self._floats = floats
        self._half_nodes = half_nodes
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = {name for n in self._graph.node for name in (n.name, *n.input, *n.output)}
        self._names.update(self._initializers, (value.name for value in self._graph.input))
        self._half: set[str] = set()  # tensors that are FP16 by now
        self._cast: dict[tuple[str, bool], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def rewrite(self, *, fp16_input: bool, fp16_outputs: bool) -> None:
        import onnx

        graph = self._graph
        if fp16_input:
            for value in graph.input:
                if value.name in self._floats and value.name not in self._initializers:
                    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
                    self._half.add(value.name)
        for index, node in enumerate(graph.node):
            self._rewrite_node(node, half=index in self._half_nodes)
        for value in graph.output:
            if value.name in self._floats:
                self._fix_output(value, fp16_outputs)
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        used |= {value.name for value in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        # The inferred types of the old graph no longer hold.
        del graph.value_info[:]

    def _rewrite_node(self, node: onnx.NodeProto, *, half: bool) -> None:
        import onnx

        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "Constant" and node.output[0] in self._floats:
            # A constant has readers of both kinds: it becomes an initializer, cast by reader.
            tensor = onnx.TensorProto()
            values = [onnx.helper.get_attribute_value(a) for a in node.attribute]
            if isinstance(values[0], onnx.TensorProto):
                tensor.CopyFrom(values[0])
            else:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values[0], np.float32)))
            tensor.name = node.output[0]
            self._graph.initializer.append(tensor)
            self._initializers[tensor.name] = tensor
            return
        fp32_inputs = _FP32_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in self._floats:
                copy.input[position] = self._as(name, half and position not in fp32_inputs)
        if half:
            if node.op_type == "Cast":
                for attribute in copy.attribute:
                    if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                        attribute.i = onnx.TensorProto.FLOAT16
            self._half.update(name for name in node.output if name in self._floats)
        self._nodes.append(copy)

    def _as(self, name: str, half: bool) -> str:
        """Return the name of a tensor's FP16 or FP32 form, making it if need be."""
        import onnx

        if name in self._initializers:
            if not half:
                return name
            key = (name, True)
            if key not in self._cast:
                self._cast[key] = self._unique(f"{name}_fp16")
                values = onnx.numpy_helper.to_array(self._initializers[name])
                if values.size and not np.abs(values).max() <= _FP16_MAX:
                    raise ModelError(
                        f"weight '{name}' with a magnitude of {np.abs(values).max():g}",
                        expected=f"at most {_FP16_MAX:g}, the largest FP16 number",
                        fix="build with --precision fp32",
                    )
                self._graph.initializer.append(
                    onnx.numpy_helper.from_array(values.astype(np.float16), self._cast[key])
                )
            return self._cast[key]
        if (name in self._half) == half:
            return name
        key = (name, half)
        if key not in self._cast:
            kind = "fp16" if half else "fp32"
            to = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
            self._cast[key] = self._unique(f"{name}_{kind}")
            node_name = self._unique(f"{name}_to_{kind}")
            self._nodes.append(
                onnx.helper.make_node("Cast", [name], [self._cast[key]], node_name, to=to)
            )
        return self._cast[key]

    def _fix_output(self, value: onnx.ValueInfoProto, half: bool) -> None:
        """Keep an output's name, with a cast before it where its type must change."""
        import onnx

        tensor = onnx.TensorProto
        value.type.tensor_type.elem_type = tensor.FLOAT16 if half else tensor.FLOAT
        if (value.name in self._half) == half:
            return
        inner = self._unique(f"{value.name}_inner")
        for node in self._nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == value.name:
                        names[position] = inner
        to = tensor.FLOAT16 if half else tensor.FLOAT
        name = self._unique(f"{value.name}_to_output")
        self._nodes.append(onnx.helper.make_node("Cast", [inner], [value.name], name, to=to))

    def _unique(self, base: str) -> str:
        """Return a tensor or node name that is not in use, `base` itself if it can be."""
        name = unused_name(base, self._names)
        self._names.add(name)
        return name
