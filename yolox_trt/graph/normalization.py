# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Brings what exporters write in several forms to the one that the compiler works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: TensorRT's parser looks plugins up by operator name; the domain keeps onnx's checker content.
PLUGIN_DOMAIN = "TRT"
#: From this IR version on, an initialiser need not be a graph input too.
_IR_VERSION = 4


def is_plugin(op_type: str) -> bool:
    """Whether an operator's name is that of a plugin of TensorRT, such as EfficientNMS_TRT."""
    return op_type.startswith("EfficientNMS") or op_type.endswith("_TRT")


def normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in the form that the compiler works on.

    Initialisers that are also graph inputs (`keep_initializers_as_inputs`, or IR version 3) become
    plain constants: a pass that drops such a constant would otherwise leave an input behind that
    has to be fed. Plugins of TensorRT in the default domain get one of their own: onnx's checker
    and shape inference know no such operator in theirs.

    Args:
        model: any model; it is not changed.

    Returns:
        The model itself where it has that form already.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    has_inputs = any(value.name in constants for value in model.graph.input)
    has_plugins = any(not node.domain and is_plugin(node.op_type) for node in model.graph.node)
    if not has_inputs and not has_plugins and model.ir_version >= _IR_VERSION:
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, _IR_VERSION)
    if has_inputs:
        inputs = [value for value in model.graph.input if value.name not in constants]
        del copy.graph.input[:]
        copy.graph.input.extend(inputs)
    for node in copy.graph.node:
        if not node.domain and is_plugin(node.op_type):
            node.domain = PLUGIN_DOMAIN
    if has_plugins and all(entry.domain != PLUGIN_DOMAIN for entry in copy.opset_import):
        entry = copy.opset_import.add()
        entry.domain, entry.version = PLUGIN_DOMAIN, 1
    return copy
