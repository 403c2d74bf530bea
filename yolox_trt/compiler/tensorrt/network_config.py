# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a parsed TensorRT network: types, formats, ranges, layer precisions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.option import options_of
from yolox_trt.engines.trt_api import enum_name

_log = logging.getLogger("yolox_trt.build")

_CONVOLUTION_TYPES = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")


def layers_of(network: Any) -> list[Any]:
    """Return the network's layers in order."""
    return [network.get_layer(i) for i in range(network.num_layers)]


def inputs_of(owner: Any) -> list[Any]:
    """Return the input tensors of a layer or network."""
    found = (owner.get_input(i) for i in range(owner.num_inputs))
    return [tensor for tensor in found if tensor is not None]


def outputs_of(owner: Any) -> list[Any]:
    """Return the output tensors of a layer or network."""
    found = (owner.get_output(i) for i in range(owner.num_outputs))
    return [tensor for tensor in found if tensor is not None]


def first_convolutions(network: Any) -> list[Any]:
    """Return the convolutions that the image input reaches through no other convolution."""
    # TensorRT's parser adds layers in the graph's order: producers come first.
    return _nearest_convolutions(inputs_of(network), layers_of(network), inputs_of, outputs_of)[0]


def last_convolutions(network: Any) -> tuple[list[Any], set[str]]:
    """Return the convolutions from which an output is reached through no other convolution.

    Returns:
        They, in order, and the names of their outputs and of all tensors behind them.
    """
    layers = layers_of(network)
    found, behind = _nearest_convolutions(outputs_of(network), layers[::-1], outputs_of, inputs_of)
    for layer in layers:
        names = {tensor.name for tensor in outputs_of(layer)}
        if names & behind:
            behind |= names
    return found[::-1], behind


def _nearest_convolutions(
    tensors: Iterable[Any],
    layers: Iterable[Any],
    near: Callable[[Any], list[Any]],
    far: Callable[[Any], list[Any]],
) -> tuple[list[Any], set[str]]:
    """Go through layers from one end; return the first convolutions, and the tensors up to them.

    Args:
        tensors: those of the end.
        layers: each behind those that lie nearer to the end.
        near: the tensors of a layer on the side of that end.
        far: those on the other side.
    """
    reached = {tensor.name for tensor in tensors}
    found = []
    for layer in layers:
        if not any(tensor.name in reached for tensor in near(layer)):
            continue
        if enum_name(layer.type) in _CONVOLUTION_TYPES:
            found.append(layer)
        else:
            reached.update(tensor.name for tensor in far(layer))
    return found, reached


def computes(module: Any, layer: Any) -> bool:
    """Tell whether a layer works on activations at run time.

    Constants and shape arithmetic are folded by the builder; asked whether a DLA can run them, it
    says no.
    """
    return enum_name(layer.type) not in ("CONSTANT", "SHAPE") and any(
        _is_float(module, tensor) for tensor in outputs_of(layer)
    )


def set_io(plan: BuildPlan, network: Any) -> None:
    """Set format of inputs and outputs, and their type where the graph does not fix it.

    The format is set even where it is linear: by the header, a tensor whose formats are not set
    may get any.
    """
    api = plan.api
    for tensors, kind, form in (
        (inputs_of(network), plan.input_type, plan.input_format),
        (outputs_of(network), plan.output_type, plan.output_format),
    ):
        for tensor in tensors:
            if kind is not None and not plan.strongly_typed and _is_float(api.module, tensor):
                tensor.dtype = api.data_type(kind)
            # The classes of a segmentation head that ends in an ArgMax have no packed format.
            own = "LINEAR" if enum_name(tensor.dtype) in ("INT32", "INT64") else form.upper()
            tensor.allowed_formats = 1 << int(getattr(api.module.TensorFormat, own))


def describe_io(plan: BuildPlan, network: Any) -> dict[str, dict[str, Any]]:
    """Return shape, type and format of inputs and outputs by name, after set_io, as JSON values."""
    api = plan.api
    return {
        str(tensor.name): {
            "shape": [int(n) for n in tensor.shape],
            "type": api.numpy_dtype(tensor.dtype, tensor=tensor.name),
            "format": form,
        }
        for tensors, form in (
            (inputs_of(network), plan.input_format),
            (outputs_of(network), plan.output_format),
        )
        for tensor in tensors
    }


def set_int8_io_ranges(plan: BuildPlan, network: Any, ranges: DynamicRanges) -> dict[str, float]:
    """Give INT8 inputs and outputs their ranges, and return the real value of one step of each.

    A calibrator does not: TensorRT checks these tensors before it reads the cache.

    Raises:
        EngineError: the calibration cache or the ranges do not name all of them.
    """
    int8 = [
        (kind, tensor)
        for kind, tensors in (("input", inputs_of(network)), ("output", outputs_of(network)))
        for tensor in tensors
        if tensor.dtype == plan.api.module.DataType.INT8
    ]
    missing = [(kind, tensor.name) for kind, tensor in int8 if tensor.name not in ranges]
    if missing:
        names = ", ".join(f"'{name}'" for _, name in missing)
        kinds = dict.fromkeys(kind for kind, _ in missing)
        source = plan.options.calibration_cache or plan.options.dynamic_ranges
        types = [options_of(BuildOptions)[f"{kind}_type"] for kind in kinds]
        raise EngineError(
            f"INT8 {' and '.join(kinds)} {names} without a scale",
            expected=f"{names} in {source}",
            fix=(
                "yolox_trt calibrate MODEL --images FOLDER --cache FILE on this model (yolox_trt "
                "translate MODEL -o OUT --cache FILE --dla for a Q/DQ model), or set ",
                types[0],
                *((" and ", types[1]) if len(types) > 1 else ()),
                " to fp16",
            ),
        )
    scales = {}
    for _, tensor in int8:
        amax = ranges.amax(tensor.name)
        tensor.set_dynamic_range(-amax, amax)
        scales[tensor.name] = amax / 127.0
    return scales


def input_range(plan: BuildPlan) -> float:
    """Return the largest magnitude of the input's values, for ranges that do not name it."""
    multiplier, offset = plan.graph_spec.preprocessing.factors
    return max(
        abs(value * m + b)
        for m, b in zip(multiplier, offset, strict=True)
        for value in (0.0, 255.0)
    )


def set_dynamic_ranges(plan: BuildPlan, network: Any, ranges: DynamicRanges) -> list[str]:
    """Give every tensor its range; return the tensors that got the default.

    `default_dynamic_range` is for tensors between convolutions: not for the outputs of the last
    convolutions nor for what follows them, whose values it would cut off.

    Raises:
        ConfigurationError: no tensor of the network has a range, so the file is of another model.
    """
    inputs = inputs_of(network)
    default = plan.options.default_dynamic_range
    without = last_convolutions(network)[1]
    named = 0
    defaulted = []
    for tensor in [*inputs, *(t for layer in layers_of(network) for t in outputs_of(layer))]:
        if tensor.name in ranges:
            amax = ranges.amax(tensor.name)
            tensor.set_dynamic_range(-amax, amax)
            named += 1
        elif default is not None and any(tensor is t for t in inputs):
            tensor.set_dynamic_range(-input_range(plan), input_range(plan))
        elif (
            default is not None
            and tensor.name not in without
            and _is_float(plan.api.module, tensor)
        ):
            # Symmetric, as TensorRT has it: (0, 6) and (-6, 6) are one scale.
            tensor.set_dynamic_range(-default, default)
            defaulted.append(str(tensor.name))
    if len(ranges) and not named:
        raise ConfigurationError(
            f"none of the {len(ranges)} tensors in {plan.options.dynamic_ranges} is in "
            f"{plan.model_path.name}",
            expected="ranges of this model",
            fix="yolox_trt calibrate MODEL --images FOLDER --ranges FILE",
        )
    return defaulted


def set_layer_precisions(plan: BuildPlan, network: Any) -> dict[str, str]:
    """Pin layers to a precision; return layer name -> precision for the report.

    Raises:
        ConfigurationError: a pattern of layer_precisions fits no layer.
    """
    options = plan.options
    pinned: dict[str, tuple[Any, str]] = {}
    if options.keep_first_layer_fp16:
        pinned.update({layer.name: (layer, "fp16") for layer in first_convolutions(network)})
    if options.keep_last_layer_fp16:
        pinned.update({layer.name: (layer, "fp16") for layer in last_convolutions(network)[0]})
    layers = layers_of(network)
    for pattern, precision in options.layer_precisions.items():
        # Exact names first: those of ONNX may hold characters of a pattern.
        fitting = [layer for layer in layers if layer.name == pattern] or [
            layer for layer in layers if fnmatchcase(layer.name, pattern)
        ]
        if not fitting:
            names = ", ".join(layer.name for layer in layers[:5])
            raise ConfigurationError(
                (options_of(BuildOptions)["layer_precisions"], f": no layer is called '{pattern}'"),
                expected=f"a name or pattern of a layer, such as {names}",
                fix="yolox_trt build MODEL --list-layers names them all",
            )
        pinned.update({layer.name: (layer, precision) for layer in fitting})
    for layer, precision in pinned.values():
        if not computes(plan.api.module, layer):
            continue  # there is no precision to choose
        layer.precision = plan.api.data_type(precision)
        for index, tensor in enumerate(outputs_of(layer)):
            if _is_float(plan.api.module, tensor) and precision != "int8":
                layer.set_output_type(index, plan.api.data_type(precision))
    return {name: precision for name, (_, precision) in pinned.items()}


def _is_float(module: Any, tensor: Any) -> bool:
    types = module.DataType
    return tensor.dtype in (types.FLOAT, types.HALF)
