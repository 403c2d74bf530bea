# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the ModelSpec of a YOLOX in its ONNX graph.

Nothing is read from names (they differ between exporters) where the graph itself tells it. The
head is what lies between the outputs and the last convolutions: three convolutions a level (box 4,
objectness 1, classes C channels), or fewer where an optimiser merged them. Their sizes give the
strides and the class count, an Exp behind them means that boxes are decoded in the graph, a
Sigmoid that scores are probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core import model_spec
from yolox_trt.core.errors import ModelError
from yolox_trt.core.labels import default_class_names
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, ModelSpec, Preprocessing
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head, describe, head_error
from yolox_trt.graph.shape_walk import ShapeWalk
from yolox_trt.graph.values import Node, Value

if TYPE_CHECKING:
    import onnx

_INPUT_DTYPES = ("float32", "float16", "uint8")
#: Operators that heads of other detectors have (softmax of DFL boxes, top-k).
_FOREIGN = ("Softmax", "TopK", "NonMaxSuppression", "ArgMax", "ReduceMax", "LayerNormalization")


def read_spec(
    model: str | Path | onnx.ModelProto | Graph,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
) -> ModelSpec:
    """Find what a YOLOX network takes and gives.

    Args:
        model: path of an ONNX file, a loaded model, or a graph (none of them is changed).
        preprocessing: what the input expects; None takes the metadata's, else YOLOX >= 0.1.1's
            (BGR 0..255). A graph cannot tell it: a 0.1.0 model needs the argument.
        class_names: names of the classes; None takes the metadata's, else COCO's for 80 classes.
        input_size: (height, width) in pixels for a graph that leaves them open.

    Returns:
        The description; its class_names are () where nothing names the classes.

    Raises:
        ModelError: the file cannot be read, or it is not a YOLOX that this package can run.
        MissingDependencyError: the Python module onnx is missing.
    """
    graph = Graph.of(model)
    declared = metadata_list(graph, model_spec.METADATA_STRIDES)
    image = _find_image(graph)
    height, width = size = _size(image, input_size)
    assert image.shape is not None
    batch = image.shape[0] if isinstance(image.shape[0], int) and image.shape[0] > 0 else None
    try:
        graph.infer_shapes()
    except ModelError as error:
        raise head_error(graph, error.found) from error
    if tuple(image.shape[2:]) != size:
        graph = graph.copy()
        ShapeWalk.over(graph, (batch or 1, 3, *size)).write_shapes()
    head = Head(graph, size)
    names = tuple(value.name for value in graph.outputs)
    nms = next((node for node in graph.nodes if node.op.startswith("EfficientNMS")), None)
    levels: tuple[HeadLevel, ...] = ()
    sigmoid = True
    if nms is not None:
        layout = HeadLayout.EFFICIENT_NMS
        names, num_classes = _efficient_nms(head, nms)
    else:
        ranks = [len(value.shape or ()) for value in graph.outputs]
        if len(ranks) == 1 and ranks[0] != 4:
            layout, levels, num_classes = _single_tensor(head, graph.outputs[0])
        elif all(rank == 4 for rank in ranks):
            layout = HeadLayout.RAW_LEVELS
            levels, num_classes = _raw_levels(head)
        else:
            raise head.error("outputs of mixed rank", "cut other outputs off the graph")
        found = tuple(level.stride for level in levels)
        if declared and not _same_numbers(declared, found):
            raise head.error(f"strides {found} in the graph, {tuple(declared)} in the metadata")
        sigmoid = head.has("Sigmoid")
        text = graph.metadata.get(model_spec.METADATA_SIGMOID)
        if text is not None and text.strip().lower() != json.dumps(sigmoid):
            raise head.error(
                f"sigmoid {'' if sigmoid else 'not '}in the graph, but metadata says {text}"
            )
    step = max((level.stride for level in levels), default=32)
    if height % step or width % step:
        raise head.error(f"input of {height}x{width} (H x W), not a multiple of stride {step}")
    if preprocessing is None:
        text = graph.metadata.get(model_spec.METADATA_PREPROCESSING)
        preprocessing = Preprocessing.from_json(text) if text else Preprocessing()
    return ModelSpec(
        input_name=image.name,
        input_height=height,
        input_width=width,
        batch=batch,
        num_classes=num_classes,
        head=layout,
        output_names=names,
        levels=levels,
        input_dtype=str(image.dtype),
        sigmoid=sigmoid,
        preprocessing=preprocessing,
        class_names=_class_names(graph, class_names, num_classes),
    )


def metadata_list(graph: Graph, key: str) -> list[Any]:
    """Return a JSON list from the metadata, [] where it is missing.

    Raises:
        ModelError: it is no JSON list.
    """
    text = graph.metadata.get(key)
    if not text:
        return []
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list):
        raise ModelError(
            f"ONNX metadata '{key}' = {text!r}",
            expected="a JSON list",
            fix="write it again with onnx.helper.set_model_props, or leave it out",
        )
    return values


def _find_image(graph: Graph) -> Value:
    described = ", ".join(f"{v.name} {describe(v.shape)}" for v in graph.inputs) or "none"
    if len(graph.inputs) != 1:
        raise head_error(graph, f"{len(graph.inputs)} inputs ({described})")
    image = graph.inputs[0]
    shape = tuple(d if isinstance(d, int) and d > 0 else None for d in image.shape or ())
    if len(shape) != 4 or shape[1] not in (3, None) or (shape[1] is None and shape[3] == 3):
        raise head_error(graph, f"input {described}", "export it with an NCHW image input")
    if str(image.dtype) not in _INPUT_DTYPES:
        raise head_error(
            graph, f"input {image.name} of type {image.dtype} (not {', '.join(_INPUT_DTYPES)})"
        )
    return image


def _size(image: Value, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width, those asked for where the graph leaves them open."""
    fixed = [d if isinstance(d, int) and d > 0 else None for d in (image.shape or ())[2:]]
    if asked is not None and any(f not in (a, None) for f, a in zip(fixed, asked, strict=True)):
        raise ModelError(
            f"input size {asked[0]}x{asked[1]} (H x W) asked for",
            expected=f"{fixed[0]}x{fixed[1]}, which the graph fixes",
            fix=_fix_size(*asked),
        )
    height, width = fixed if asked is None else asked
    if height is None or width is None:
        raise ModelError(
            f"input {image.name} {describe(image.shape)} with open height or width",
            expected="a fixed H x W",
            fix="give the input size, fix it (yolox_trt optimize MODEL --input-size HxW -o OUT), "
            "or export without dynamic height and width",
        )
    return height, width


def _fix_size(height: int, width: int) -> str:
    """Return how a model with a built-in size gets another one."""
    if height > 0 and width > 0 and height % 32 == 0 and width % 32 == 0:
        return (
            f"make a model of this size (yolox_trt optimize MODEL --input-size {height}x{width} "
            "-o OUT), or leave the input size out"
        )
    return (
        "leave the input size out; a model of another size has multiples of 32 (yolox_trt "
        "optimize MODEL --input-size HxW -o OUT)"
    )


def _same_numbers(values: Sequence[Any], expected: Sequence[int]) -> bool:
    try:
        return sorted(values) == sorted(expected)
    except TypeError:
        return False  # not even numbers


def _class_names(
    graph: Graph, class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    if class_names is None:
        class_names = [str(n) for n in metadata_list(graph, model_spec.METADATA_CLASS_NAMES)]
    if not class_names:
        return default_class_names(num_classes)
    if len(class_names) != num_classes:
        raise ModelError(
            f"{len(class_names)} class names",
            expected=f"{num_classes}, as many as the model has classes",
            fix="give the label file that belongs to the model",
        )
    return tuple(class_names)


def _efficient_nms(head: Head, node: Node) -> tuple[tuple[str, ...], int]:
    """Return the graph outputs as (num_detections, boxes, scores, classes), and the class count."""
    made_by = {}
    for output in head.graph.outputs:
        value = output
        while value.producer is not None and value.producer.op in ("Identity", "Cast"):
            value = value.producer.inputs[0]
        made_by[value] = output.name
    names = tuple(made_by.get(value, "") for value in node.outputs)
    if len(names) != 4 or "" in names or len(head.graph.outputs) != 4:
        raise head.error(f"{node.op} whose four results are not the graph's four outputs")
    shape = node.inputs[1].shape or ()
    if len(shape) == 3 and isinstance(shape[2], int):
        return names, shape[2]
    # The scores' shape is often lost behind a plugin or dynamic sizes: the head still has it.
    return names, head.levels(head.parts())[1]


def _single_tensor(head: Head, output: Value) -> tuple[HeadLayout, tuple[HeadLevel, ...], int]:
    """Read a model with one output (N, A, 5 + C)."""
    shape = output.shape
    if shape is not None and len(shape) != 3:
        raise head.error(f"one output of rank {len(shape)}")
    if head.has(*_FOREIGN):
        raise head.error("a head with operators that a YOLOX head does not have")
    levels, num_classes = head.levels(head.parts())
    anchors = sum(level.height * level.width for level in levels)
    if shape is not None:
        rows, columns = (d if isinstance(d, int) and d > 0 else None for d in shape[1:])
        if rows not in (anchors, None) or columns not in (5 + num_classes, None):
            raise head.error(
                f"output {output.name} of {rows} x {columns}, while the head's convolutions have "
                f"{anchors} cells and 5 + {num_classes} channels"
            )
    return HeadLayout.DECODED if head.has("Exp") else HeadLayout.UNDECODED, levels, num_classes


def _raw_levels(head: Head) -> tuple[tuple[HeadLevel, ...], int]:
    """Read a model whose outputs are (N, channels, h, w), split or concatenated by level."""
    if head.has("Exp"):
        raise head.error("outputs by level that are decoded in the graph")
    parts = []
    for output in head.graph.outputs:
        whole = head.part(output)
        layout = head.channel_layout(output)
        if sum(part.channels for part in layout) != whole.channels:
            layout = [whole]
        offset = 0
        for part in layout:
            parts.append(replace(part, output=output.name, offset=offset))
            offset += part.channels
    levels, num_classes = head.levels(parts)
    return tuple(sorted(levels, key=lambda level: level.stride)), num_classes
