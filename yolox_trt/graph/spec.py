# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the ModelSpec of a detector in its ONNX graph; heads that are no YOLOX's: other_heads.

Nothing is read from names (they differ between exporters) where the graph itself tells it. The
head of a YOLOX is what lies between the outputs and the last convolutions: three convolutions a
level (box 4, objectness 1, classes C channels), or fewer where an optimiser merged them. Their
sizes give the strides and the class count, an Exp behind them means that boxes are decoded in the
graph, a Sigmoid that scores are probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yolox_trt.core import model_spec
from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import ModelError
from yolox_trt.core.labels import default_class_names
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.model_spec import (
    BoxFormat,
    HeadLayout,
    HeadLevel,
    ModelSpec,
    Preprocessing,
    SegmentationHead,
)
from yolox_trt.core.model_types import AUTO, MODEL_TYPES, NO_DETECTOR, custom_detector
from yolox_trt.graph.anchor_order import check_anchor_order
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import Head, describe, head_error
from yolox_trt.graph.other_heads import find_head, ultralytics_names
from yolox_trt.graph.outputs import argmax_behind, segmentation_candidates
from yolox_trt.graph.shape_walk import ShapeWalk
from yolox_trt.graph.single_input import sizes_input
from yolox_trt.graph.values import Node, Value

if TYPE_CHECKING:
    import onnx

_INPUT_DTYPES = ("float32", "float16", "uint8")
#: Operators that heads of other detectors have (softmax of DFL boxes, top-k).
_FOREIGN = ("Softmax", "TopK", "NonMaxSuppression", "ArgMax", "ReduceMax", "LayerNormalization")


@refuses_damaged
def read_spec(
    model: str | Path | onnx.ModelProto | Graph,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    model_type: str | None = None,
    box_format: BoxFormat | str | None = None,
) -> ModelSpec:
    """Find what a detector's network takes and gives.

    Args:
        model: path of an ONNX file, a loaded model, or a graph (none of them is changed).
        preprocessing: what the input expects; None takes the metadata's, else that of the kind of
            detector, which is BGR 0..255 for YOLOX >= 0.1.1. A graph cannot tell it: a 0.1.0 model
            needs the argument.
        class_names: names of the classes; None takes the metadata's, else COCO's for 80 classes.
        input_size: (height, width) in pixels for a graph that leaves them open.
        model_type: kind of detector, a name of core.model_types or "auto"; None takes the
            metadata's, else finds it.
        box_format: what the boxes are that the graph has decoded; None takes the metadata's, else
            what is usual for the kind.

    Returns:
        The description; its class_names are () where nothing names the classes.

    Raises:
        ModelError: the file cannot be read, or it is no detector that this package can run, or not
            of the kind that was asked for.
        MissingDependencyError: the Python module onnx is missing.
    """
    graph = Graph.of(model)
    if model_type in (None, AUTO):
        model_type = _declared_type(graph)
    box_format = BoxFormat(box_format) if box_format else _declared_boxes(graph)
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
    if preprocessing is None:
        text = graph.metadata.get(model_spec.METADATA_PREPROCESSING)
        preprocessing = Preprocessing.from_json(text) if text else None
    given: dict[str, Any] = {
        "input_name": image.name,
        "input_height": height,
        "input_width": width,
        "batch": batch,
        "input_dtype": str(image.dtype),
    }
    if model_type == NO_DETECTOR:
        names = tuple(value.name for value in graph.outputs)
        return ModelSpec(
            **given,
            num_classes=0,
            head=HeadLayout.NONE,
            output_names=names,
            levels=(),
            preprocessing=preprocessing or Preprocessing(),
            model_type=NO_DETECTOR,
            nms=False,
        )
    refusal: ModelError | None = None
    if model_type in ("auto", "yolox", "efficient_nms"):
        try:
            read = _read_head(graph, size)
            if len(graph.inputs) != 1:
                raise head_error(graph, f"{len(graph.inputs)} inputs")
        except ModelError as error:
            if model_type != "auto":
                raise
            refusal = error
        else:
            # From here on it is one: what contradicts that must not end as another detector.
            spec = _yolox_spec(graph, size, read, class_names, declared, given)
            if model_type not in ("auto", spec.model_type):
                raise head_error(graph, f"a {spec.model_type}, not a {model_type}")
            _check_boxes(spec, box_format)
            return replace(spec, preprocessing=preprocessing or Preprocessing())
    own_names = _own_class_names(graph) if class_names is None else list(class_names)
    match = find_head(
        graph,
        size,
        batch or 1,
        known_classes=len(own_names) or None,
        model_type=model_type,
        box_format=box_format,
        refusal=refusal,
    )
    used = match.output_names
    spec = ModelSpec(
        **given,
        num_classes=match.num_classes,
        head=match.head,
        output_names=used,
        levels=(),
        sigmoid=match.sigmoid,
        preprocessing=preprocessing or match.preprocessing,
        class_names=_class_names(graph, own_names or None, match.num_classes),
        model_type=match.model_type,
        box_format=match.box_format,
        nms=match.nms,
        channels_first=match.channels_first,
        ignored=tuple(value.name for value in graph.outputs if value.name not in used),
        stride=match.stride,
    )
    _check_boxes(spec, box_format)
    return spec


def _yolox_spec(
    graph: Graph,
    size: tuple[int, int],
    read: _Read,
    class_names: Sequence[str] | None,
    declared: list[Any],
    given: dict[str, Any],
) -> ModelSpec:
    """Describe a YOLOX, or any detector that ends in EfficientNMS_TRT.

    Raises:
        ModelError: it contradicts its metadata.
    """
    head, layout, levels, num_classes, names, mask_output = read
    sigmoid = True
    if layout is not HeadLayout.EFFICIENT_NMS:
        found = tuple(level.stride for level in levels)
        if declared and not _same_numbers(declared, found):
            raise head.error(f"strides {found} in the graph, {tuple(declared)} in the metadata")
        check_anchor_order(head, layout, levels)
        sigmoid = head.has_sigmoid
        text = graph.metadata.get(model_spec.METADATA_SIGMOID)
        if text is not None and text.strip().lower() != json.dumps(sigmoid):
            raise head.error(
                f"sigmoid {'' if sigmoid else 'not '}in the graph, but metadata says {text}"
            )
    step = max((level.stride for level in levels), default=32)
    if size[0] % step or size[1] % step:
        raise head.error(f"input of {size[0]}x{size[1]} (H x W), not a multiple of stride {step}")
    return ModelSpec(
        **given,
        num_classes=num_classes,
        head=layout,
        output_names=names,
        levels=levels,
        sigmoid=sigmoid,
        class_names=_class_names(graph, class_names, num_classes),
        segmentation=None if mask_output is None else _segmentation_head(graph, mask_output, size),
        model_type="efficient_nms" if layout is HeadLayout.EFFICIENT_NMS else "yolox",
    )


def _check_boxes(spec: ModelSpec, asked: BoxFormat | None) -> None:
    """Refuse another format of boxes for a form that leaves no choice.

    Raises:
        ModelError: it would have no effect.
    """
    own = BoxFormat.XYXY if spec.head is HeadLayout.EFFICIENT_NMS else spec.box_format
    if asked not in (None, own):
        raise ModelError(
            f"box format '{asked.value}' asked for a {spec.model_type}",
            expected=f"none: the boxes of this form are '{own.value}', in the graph or behind it",
            fix="leave the option box format out (and the metadata "
            f"'{model_spec.METADATA_BOX_FORMAT}'), or force another model type",
        )


class _Read(NamedTuple):
    """What the outputs of a graph are.

    Attributes:
        head: the detection head.
        layout: its form.
        levels: its levels, () for EFFICIENT_NMS.
        num_classes: of the detections.
        names: of its outputs, as ModelSpec.output_names has them.
        mask_output: the segmentation head's output, None without one.
    """

    head: Head
    layout: HeadLayout
    levels: tuple[HeadLevel, ...]
    num_classes: int
    names: tuple[str, ...]
    mask_output: Value | None


def detection_head(graph: Graph, size: tuple[int, int]) -> Head:
    """Return the detection head of a YOLOX, without the segmentation head beside it.

    Raises:
        ModelError: it is not a YOLOX.
    """
    return _read_head(graph, size).head


def _read_head(graph: Graph, size: tuple[int, int]) -> _Read:
    """Tell the outputs apart: the first segmentation output without which the rest is a YOLOX."""
    error: ModelError | None = None
    levels: tuple[HeadLevel, ...]
    for mask_output in segmentation_candidates(graph):
        outputs = [value for value in graph.outputs if value is not mask_output]
        head = Head(graph, size, outputs)
        names = tuple(value.name for value in outputs)
        try:
            nms = next((node for node in graph.nodes if node.op.startswith("EfficientNMS")), None)
            ranks = [len(value.shape or ()) for value in outputs]
            if nms is not None:
                names, num_classes = _efficient_nms(head, nms)
                layout, levels = HeadLayout.EFFICIENT_NMS, ()
            elif len(ranks) == 1 and ranks[0] != 4:
                layout, levels, num_classes = _single_tensor(head, outputs[0])
            elif all(rank == 4 for rank in ranks):
                layout = HeadLayout.RAW_LEVELS
                levels, num_classes = _raw_levels(head)
            else:
                raise head.error("outputs of mixed rank", "cut other outputs off the graph")
            return _Read(head, layout, levels, num_classes, names, mask_output)
        except ModelError as refusal:
            error = refusal if error is None or mask_output is None else error
    assert error is not None
    raise error


def metadata_list(graph: Graph, key: str) -> list[Any]:
    """Return a JSON list from the metadata, [] where it is missing.

    Raises:
        ModelError: it is no JSON list.
    """
    text = graph.metadata.get(key)
    if not text:
        return []
    try:
        values = parse_json(text)
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
    images = [value for value in graph.inputs if value is not sizes_input(graph)]
    if len(images) != 1:
        raise head_error(graph, f"{len(graph.inputs)} inputs ({described})")
    image = images[0]
    shape = tuple(d if isinstance(d, int) and d > 0 else None for d in image.shape or ())
    if len(shape) != 4 or (shape[3] == 3 and shape[1] != 3):
        raise head_error(graph, f"input {described}", "export it with an NCHW image input")
    if shape[1] not in (3, None):
        focus = " and its Focus in the graph" if shape[1] == 12 else ""
        raise head_error(
            graph,
            f"input {described} of {shape[1]} channels",
            f"export it for images of 3 channels, BGR or RGB{focus}",
        )
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


def _declared_type(graph: Graph) -> str:
    """Return the kind that the metadata names, "auto" where they name none."""
    name = graph.metadata.get(model_spec.METADATA_MODEL_TYPE, AUTO)
    if name in MODEL_TYPES or name in (AUTO, NO_DETECTOR):
        return name
    return custom_detector(clean_text(name, LIMITS.name_characters)).name


def _declared_boxes(graph: Graph) -> BoxFormat | None:
    text = graph.metadata.get(model_spec.METADATA_BOX_FORMAT)
    if text is None:
        return None
    with ModelError.instead_of(
        ValueError,
        f"ONNX metadata '{model_spec.METADATA_BOX_FORMAT}' = {text!r:.200}",
        expected=" or ".join(form.value for form in BoxFormat),
        fix="write it again with onnx.helper.set_model_props, or leave it out",
    ):
        return BoxFormat(text)


def _own_class_names(graph: Graph) -> list[str]:
    """Return the names in the metadata, of this package or of Ultralytics."""
    own = [str(n) for n in metadata_list(graph, model_spec.METADATA_CLASS_NAMES)]
    return own or ultralytics_names(graph)


def _class_names(
    graph: Graph, class_names: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    if class_names is None:
        class_names = _own_class_names(graph)
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
    for output in head.outputs:
        value = output
        while value.producer is not None and value.producer.op in ("Identity", "Cast"):
            value = value.producer.inputs[0]
        made_by[value] = output.name
    names = tuple(made_by.get(value, "") for value in node.outputs)
    if len(names) != 4 or "" in names or len(head.outputs) != 4:
        raise head.error(f"{node.op} whose four results are not the graph's four outputs")
    shape = node.inputs[1].shape or ()
    if len(shape) == 3 and isinstance(shape[2], int):
        return names, shape[2]
    # The scores' shape is often lost behind a plugin or dynamic sizes: the head still has it.
    return names, head.levels(head.parts())[1]


def _single_tensor(head: Head, output: Value) -> tuple[HeadLayout, tuple[HeadLevel, ...], int]:
    """Read a model with one output (N, A, 5 + C)."""
    shape = output.shape
    if shape is None or not all(isinstance(d, int) and d > 0 for d in shape[1:]):
        # onnx's inference stops where sizes are computed, and sizes tell it from other detectors.
        image = head.graph.image.shape or ()
        batch = image[0] if image and isinstance(image[0], int) and image[0] > 0 else 1
        shape = ShapeWalk.over(head.graph, (batch, 3, *head.size)).shape(output) or shape
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
    for output in head.outputs:
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


def _segmentation_head(graph: Graph, output: Value, size: tuple[int, int]) -> SegmentationHead:
    """Read a segmentation head's output: logits (N, C, h, w), or the classes behind an ArgMax."""
    shape = tuple(d if isinstance(d, int) and d > 0 else None for d in output.shape or ())
    argmax = argmax_behind(output)
    height = width = classes = None
    if argmax is None and len(shape) == 4:
        classes, height, width = shape[1:]
    elif argmax is not None and (len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)):
        channels = (argmax.inputs[0].shape or (None,) * 4)[int(argmax.attrs.get("axis", 0))]
        classes = channels if isinstance(channels, int) else None
        height, width = shape[-2:]
    stride = size[0] // height if height else 0
    whole = height and width and (stride * height, stride * width) == size
    if not whole or classes is None or not 2 <= classes <= NO_CLASS:
        held = "logits" if argmax is None else f"classes ({classes or '?'} of them)"
        raise head_error(
            graph,
            f"segmentation output {output.name} {describe(output.shape)} with {held}, for an input "
            f"of {size[0]}x{size[1]}",
            f"export it as logits (N, C, h, w) of 2 to {NO_CLASS} classes, or as their ArgMax "
            "(N, h, w), where h and w are the input's divided by one whole number",
        )
    names = tuple(str(n) for n in metadata_list(graph, model_spec.METADATA_MASK_CLASS_NAMES))
    if names and len(names) != classes:
        raise ModelError(
            f"{len(names)} names in ONNX metadata '{model_spec.METADATA_MASK_CLASS_NAMES}'",
            expected=f"{classes}, as many as segmentation output {output.name} has classes",
            fix="write it again with onnx.helper.set_model_props, or leave it out",
        )
    assert height is not None and width is not None
    return SegmentationHead(output.name, classes, stride, height, width, argmax is not None, names)
